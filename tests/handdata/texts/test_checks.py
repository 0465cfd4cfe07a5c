"""The checks of a text, against sentences that a person judged before the checks ran."""

from pathlib import Path

import pytest

from handdata.gestures import gestures
from handdata.texts.checks import FAILURES, explain, failures
from handdata.texts.clip_tokens import CONTEXT, clip_tokens

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
    failed = failures(caption, gesture, caption if text == "=" else text)
    assert (" ".join(failed) or "ok") == verdict, failed


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


@pytest.mark.parametrize("gesture", gestures())
def test_every_phrase_names_its_own_gesture_and_no_other(gesture):
    phrase = gestures()[gesture].phrase
    assert failures("a man in a park", gesture, f"a man {phrase} in a park") == {}
    for other in gestures():
        failed = failures("a man in a park", other, f"a man {phrase} in a park")
        assert other == gesture or {"phrase-missing", "other-gesture"} <= set(failed)


def test_all_failures_are_explained_in_one_line_with_the_words_at_fault():
    failed = failures("a man in a park", "ok", "a smiling man")
    assert explain(failed, "ok") == (
        'the exact words "making ok hand gesture" are missing; it leaves out: park; '
        "it adds what the caption does not say: smiling"
    )
