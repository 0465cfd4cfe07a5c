"""An independent implementation of the checks in handdata/texts/checks.py: other algorithms, other word lists.

It knows less English than the checks and passes a text in cases of doubt. It compares texts as sequences, without the
stems, spans of hands and tokens of the checks.
"""

import difflib
import re
import tomllib

from tests import ROOT

GESTURES = tomllib.loads((ROOT / "prompts" / "gestures.toml").read_text(encoding="utf-8"))
SMALL = set(
    "a an the of in on at with and or to is are was that this there his her its their he she it they who while as by "
    "for from into up out has have been being be both hand hands gesture making makes make"
    .split()
)  # fmt: skip
ABOUT_HANDS = re.compile(
    r"hand|finger|thumb|palm|fist|wrist|arm|gestur|pinky|sign|peace|wav|point|pray|horn|shush|hush|lips|mouth|ear|face|"
    r"hold|phone|cup|giv|show|mak|rais|up|down|one|two|three|four|five|left|right|cross|fold|other|heart|talk|rest|air|"
    r"time|out|shaka|stop|ok|okay|both|v|frame|together|open|number|middle|little|index|bare|cell|alike|held"
)


def objections(caption: str, gesture: str, text: str, count_tokens) -> list[str]:
    """Return the objections to a text as sentences; `count_tokens` is transformers' CLIP tokenizer as a function."""
    phrase = GESTURES[gesture]["phrase"]
    faults = []
    if len(text.split(phrase)) != 2:
        return [f"holds the phrase {len(text.split(phrase)) - 1} times"]
    before, after = text.split(phrase)
    if before[-1:].isalnum() or after[:1].isalnum():
        faults.append("the phrase is part of a longer word")
    rest = f"{before} | {after}"
    for other, entry in GESTURES.items():
        for words in [entry["phrase"], *entry["words"]]:
            if other != gesture and _contains(rest, words) and not _own(rest, gesture, words):
                faults += [f"names {other}: {words}"]
    if "\n" in text or re.search(r"[.!?]\s+[A-Z]", text):
        faults.append("more than one sentence")
    if re.search(r"\b(here is|sure|sorry|rewritten|note:)\b", text.lower()) or '"' in text:
        faults.append("talks about the task")
    if count_tokens(text) > 77:
        faults.append("too long")
    faults += _differences(_plain(caption.replace(phrase, " ")), _plain(rest))
    return faults


def _contains(text: str, words: str) -> bool:
    if "*" in words:
        return False  # a gap may be anything: the checks themselves decide
    return f" {' '.join(_plain(words))} " in f" {' '.join(_plain(text))} "


def _own(text: str, gesture: str, words: str) -> bool:
    """Return whether a longer name of the right gesture contains these words."""
    return any(words in longer and _contains(text, longer) for longer in GESTURES[gesture]["words"])


def _plain(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]+", " ", text.lower().replace("-", " ")).split()


def _differences(caption: list[str], text: list[str]) -> list[str]:
    """Compare as sequences: words that were cut must be about hands, inserted words must be small or moved."""
    faults = []
    for action, i1, i2, j1, j2 in difflib.SequenceMatcher(None, caption, text, autojunk=False).get_opcodes():
        if action == "equal":
            continue
        cut = [word for word in caption[i1:i2] if word not in SMALL and _begins(word, text) == 0]
        put = [word for word in text[j1:j2] if word not in SMALL and _begins(word, caption) == 0]
        if cut and not any(ABOUT_HANDS.match(word) for word in caption[max(0, i1 - 2) : i2 + 2]):
            faults.append(f"lost: {' '.join(cut)}")
        if put:
            faults.append(f"added: {' '.join(put)}")
    return faults


def _begins(word: str, words: list[str]) -> int:
    """Count words with the same beginning: an inflection changes the end."""
    root = word[: max(3, len(word) - 3)]
    return sum(other.startswith(root) or word.startswith(other[: max(3, len(other) - 3)]) for other in words)
