import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handdata import assets
from handdata.gestures import gestures
from handdata.recipe import CheckOptions
from handdata.stages.check import FinalChecks
from handdata.texts.checks import FAILURES, REMARKS, explain, failures
from handdata.texts.clip_tokens import CONTEXT, clip_tokens
from handdata.texts.english import about_hands, content, gestures_named, stem, tokenise

SENTENCES = Path(__file__).with_name("check_sentences.txt")


def sentences():
    for number, line in enumerate(SENTENCES.read_text(encoding="utf-8").splitlines(), 1):
        if line and not line.startswith("#"):
            gesture, caption, rest = line.split("|", 2)
            text, verdict = rest.rsplit("|", 1)  # a text may hold a bar itself
            row = [part.strip() for part in (gesture, caption, text, verdict)]
            yield pytest.param(*row, id=f"line{number}")


@pytest.mark.parametrize(("gesture", "caption", "text", "verdict"), sentences())
def test_the_verdict_on_a_sentence_is_the_one_a_person_gave(gesture, caption, text, verdict):
    found = failures(caption, gesture, caption if text == "=" else text)
    assert (" ".join(found) or "ok") == verdict, found


def test_the_sentences_are_at_least_150_and_show_every_failure_but_length():
    rows = [param.values for param in sentences()]
    assert len(set(rows)) >= 150
    named = {name for row in rows for name in row[3].split()}
    assert named - {"ok"} == set(FAILURES) - {"too-long"}


def test_a_text_fits_77_clip_tokens_and_not_one_more():
    caption = "a man with " + "a hat and " * 16 + "a cup"
    text = f"{caption} making ok hand gesture"
    while clip_tokens().count(text) < CONTEXT:
        text, caption = f"{text} hat", f"{caption} hat"
    assert failures(caption, "ok", text) == {}
    assert failures(caption, "ok", text + " hat") == {"too-long": ("78",)}


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory):
    """The tokenizer of transformers, made of the same vocabulary file."""
    from transformers import CLIPTokenizer

    lines = gzip.decompress(assets.path("clip-vocabulary").read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    vocabulary = {word: n for n, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    return CLIPTokenizer.from_pretrained(folder)


TEXTS = [
    "a man making thumbs up hand gesture",
    "A woman's t-shirt, 35 cm: it'll do!! (ok?)",
    "naïve café übergroß – “quoted” … ½ ² Ⅷ 一二三",
    "x" * 300,
    "hand&amp;hand &lt;b&gt;",
    "   spaces \t and\nlines  ",
    "emoji 👍🏽👩‍👩‍👧 and 你好世界",
    "",
    "antidisestablishmentarianism floccinaucinihilipilification",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_counted_as_transformers_counts_them(clip_tokenizer, text):
    expected = len(clip_tokenizer(text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))["input_ids"])
    assert clip_tokens().count(text) == expected


# Cn: what is not assigned yet is cut by each library according to the Unicode version that it knows
@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cn", "Cs"), exclude_characters="&<"), max_size=40))
def test_any_text_has_as_many_tokens_as_transformers_finds(clip_tokenizer, text):
    assert clip_tokens().count(text) == len(clip_tokenizer(text)["input_ids"])


@pytest.mark.parametrize("gesture", gestures())
def test_every_phrase_names_its_own_gesture_and_no_other(gesture):
    phrase = gestures()[gesture].phrase
    assert failures("a man in a park", gesture, f"a man {phrase} in a park") == {}
    for other in gestures():
        found = failures("a man in a park", other, f"a man {phrase} in a park")
        assert other == gesture or {"phrase-missing", "other-gesture"} <= set(found)


def test_of_two_gestures_that_overlap_the_longer_counts():
    (place,) = gestures_named(tokenise("a man with his middle finger up"))
    assert place[2] == {"middle_finger"}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man holding a cell phone up to his ear in a car", "holding cell phone up ear"),
        ("a woman with a cup of coffee in her left hand", "cup coffee left hand"),
        ("a man holding a woman in a car", "holding"),
        ("a man talking on a phone and smiling", "talking phone"),
        ("a girl with two fingers on her cheek under a palm tree", "two fingers cheek"),
        ("a man standing in front of a door", ""),
    ],
)
def test_words_about_hands_and_what_they_hold_are_found(caption, expected):
    tokens = tokenise(caption)
    found = about_hands(tokens)
    assert " ".join(tokens[place] for place in content(tokens) if place in found) == expected


def test_inflections_share_a_stem_and_persons_do_not():
    for forms in (
        "stand stands standing stood",
        "wear wears wearing wore worn",
        "wave waved waving",
        "sit sits sitting",
    ):
        assert len({stem(form) for form in forms.split()}) == 1, forms
    assert stem("man") != stem("men")
    assert stem("glasses") != stem("glass")
    assert stem("building") != stem("build")


def test_all_failures_are_explained_in_one_line_with_the_words_at_fault():
    found = failures("a man in a park", "ok", "a smiling man")
    assert explain(found, "ok") == (
        'the exact words "making ok hand gesture" are missing; it leaves out: park; '
        "it adds what the caption does not say: smiling"
    )


def final(text, rewrite="llm", hands=1, in_box=1.0, drafts=()):
    """Columns of one row as the last check gets them."""
    row = {
        "caption": "a man in a park",
        "gesture": "ok",
        "text": text,
        "rewrite": rewrite,
        "draft_checks": list(drafts),
    }
    row |= {"labels": ["ok"], "hand_landmarks": [[[0.5, 0.5, 0.0]] * 21] * hands, "landmarks_in_box": in_box}
    return {name: [value] for name, value in row.items()}


GOOD = "a man in a park making ok hand gesture"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (final(GOOD), []),
        (final(GOOD, drafts=["caption:phrase-missing"]), ["caption:phrase-missing"]),
        (final(GOOD, "template"), ["text:template"]),
        (final(GOOD, hands=0, in_box=0.0), ["image:no-hand"]),
        (final(GOOD, in_box=0.5), ["image:hand-outside-box"]),
        (final(GOOD, hands=2), ["image:more-hands"]),
    ],
)
def test_rows_worth_a_look_are_remarked_on(columns, expected):
    assert FinalChecks(CheckOptions())(columns) == {"checks": [expected], "reason": [None]}
    assert {name for name in expected if not name.startswith(("caption:", "draft:"))} <= set(REMARKS)


def test_a_final_text_that_fails_is_a_bug_and_stops_the_run():
    with pytest.raises(AssertionError, match="phrase-missing"):
        FinalChecks(CheckOptions())(final("a man in a park"))
