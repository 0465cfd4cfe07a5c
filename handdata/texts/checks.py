"""Check a text against its caption: the right gesture is named once, nothing is lost, nothing is invented.

Pure functions. The stage `rewrite` calls them on every draft, the stage `check` on the final rows, where a failure is a
bug. Word lists decide, not a model, so that a verdict can be explained and is
the same on every machine.
"""

import re
from collections import Counter
from itertools import pairwise

from handdata.errors import UserError
from handdata.gestures import gestures
from handdata.texts.answers import LONGEST
from handdata.texts.clip_tokens import CONTEXT, clip_tokens
from handdata.texts.english import (
    BODY,
    COLOURS,
    FEMALE,
    FUNCTION,
    HANDS,
    MALE,
    PERSONS,
    PHRASE,
    SPARE,
    about_hands,
    content,
    gestures_named,
    mask_phrase,
    stem,
    tokenise,
)

Evidence = tuple[str, ...]

# The checks that a text can fail, with the sentence about it. A retry sends these sentences to the model: another
# wording gives other texts.
FAILURES: dict[str, str] = {
    "empty": "there is no sentence",
    "phrase-missing": 'the exact words "{phrase}" are missing',
    "phrase-repeated": 'the words "{phrase}" stand there more than once',
    "other-gesture": "it names another gesture: {evidence}",
    "word-lost": "it leaves out: {evidence}",
    "word-added": "it adds what the caption does not say: {evidence}",
    "colour-moved": "a colour has changed its place: {evidence}",
    "fragment": "it says nobody who makes the gesture",
    "sentences": "it is more than one sentence",
    "task-talk": "it talks about the task instead of the picture: {evidence}",
    "too-long": "it has {evidence} CLIP tokens, the limit is " + str(CONTEXT),
}

# Failures of a draft before its words are checked.
DRAFT_FAILURES: dict[str, str] = {
    "endless": "the answer did not end within max_tokens",
    "timeout": "the server did not answer in time",
    "prompt-too-long": "the caption is too long for the model's context",
    "reasoning": "there is reasoning without a sentence",
}
# Failures allowed in a person's own text: the person sees the picture and may describe what the caption does not.
ALLOWED_TO_PEOPLE = frozenset({"word-lost", "word-added", "colour-moved"})

# Remarks on rows that are kept, for people who choose rows and for the review page.
REMARKS: dict[str, str] = {
    "image:no-hand": "MediaPipe finds no hand",
    "image:hand-outside-box": "the gesture's box holds less of a hand than check.in_box",
    "image:more-hands": "MediaPipe finds more hands than there are boxes",
    "image:gesture-differs": "no hand is like those of the other photographs of the gesture",
    "text:template": "no draft of the model passed; the phrase was inserted by rule",
}

_TASK_TALK = re.compile(
    r"here(?:'s| is| are)\b|\bsure\b|\bcertainly\b|\bof course\b|\brewrit|\brephras|\bsentences?\b|\bcaptions?\b"
    r"|\bphrases?\b|\bnote\b|\bplease\b|\bprompts?\b|\boriginal\b|\binstructions?\b|\boutput\b|\binput\b|\banswer\b|\btext:"
    r"|\bas an ai\b|\bi(?:'m| am|'ll| can| cannot| will| have)\b|\bsorry\b|\bexactly once\b|\bassistant\b|\buser\b"
    r"|<\||\|>|</?s>|\[/?inst\]|```|\*\*|^#|\{|\}|[\"“”]|^[-*•] |^\d+[.)] |:",
    re.IGNORECASE,
)
# Possessive (`++`), so that a long run of dots or blanks is read once.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s++(?=\S)|\n")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|st|jr|sr|vs|no|[a-z])\.\s+", re.IGNORECASE)
_LONGEST_ABBREVIATION = 3


def failures(caption: str, gesture: str, text: str) -> dict[str, Evidence]:
    """Return the checks that a text for this caption and gesture fails, in the order of FAILURES, with evidence.

    The evidence is the words (or the number of tokens) at fault. The dict of a good text is empty.
    """
    if not text.strip():
        return {"empty": ()}
    if len(text) > LONGEST or len(caption) > LONGEST:  # words and pairs of words are compared with each other below
        return {"too-long": (f"more than {CONTEXT}",)}
    phrase = gestures()[gesture].phrase
    text_words = tokenise(mask_phrase(text, phrase))
    caption_words = tokenise(mask_phrase(caption, phrase))
    verdicts: dict[str, Evidence | None] = {
        **_phrase_failures(phrase, text),
        "other-gesture": _other_gestures(gesture, text_words),
        "word-lost": _lost(caption_words, text_words),
        "word-added": _added(caption_words, text_words, set(tokenise(phrase))),
        "colour-moved": _moved_colours(caption_words, text_words),
        "fragment": None if any(word.isalnum() for word in text_words) else (),
        "sentences": () if sentence_ends(text) else None,
        "task-talk": _task_talk(caption, text.replace(phrase, PHRASE)),
        "too-long": _too_long(text),
    }
    return {name: verdict for name in FAILURES if (verdict := verdicts.get(name)) is not None}


def require_fit(image_id: str, caption: str, gesture: str, text: str) -> None:
    """Raise `UserError` for a person's text that fails a check; a person may describe what the caption does not."""
    failed = {n: found for n, found in failures(caption, gesture, text).items() if n not in ALLOWED_TO_PEOPLE}
    if failed:
        raise UserError(
            f"the text of {image_id} fails the checks: {explain(failed, gesture)}; correct the text of this decision"
        )


def sentence_ends(text: str) -> list[tuple[int, int]]:
    """Return the places (start, end) between sentences. A dot after an abbreviation does not end a sentence."""
    text = text.strip()
    number = re.match(r"\d+", text)  # such as `1. ` of a list
    ends = []
    for end in _SENTENCE_END.finditer(text):
        before = max(0, end.start() - _LONGEST_ABBREVIATION)
        abbreviated = any(
            found.end() == end.end() for found in _ABBREVIATION.finditer(text, before, end.end())
        ) or bool(number and end.start() == number.end() and end[0].rstrip() == ".")
        if end.end() < len(text) and ("\n" in end[0] or not abbreviated):
            ends.append(end.span())
    return ends


def explain(failed: dict[str, Evidence], gesture: str) -> str:
    """Return one sentence about all failures, for the model's next try."""
    phrase = gestures()[gesture].phrase
    sentences = FAILURES | DRAFT_FAILURES
    parts = [sentences[name].format(phrase=phrase, evidence=", ".join(words)) for name, words in failed.items()]
    return "; ".join(parts)


def _phrase_failures(phrase: str, text: str) -> dict[str, Evidence]:
    if PHRASE not in mask_phrase(text, phrase):
        return {"phrase-missing": ()}
    return {"phrase-repeated": ()} if text.lower().count(phrase.lower()) > 1 else {}


def _other_gestures(gesture: str, words: list[str]) -> Evidence | None:
    others = [" ".join(words[start:end]) for start, end, names in gestures_named(words) if gesture not in names]
    return tuple(others) or None


def _lost(caption: list[str], text: list[str]) -> Evidence | None:
    """Return the caption's content words that the text lacks, except those about hands and the things they hold."""
    spared = about_hands(caption)
    kept = {stem(word) for word in text}
    lost = (caption[place] for place in content(caption) if place not in spared and stem(caption[place]) not in kept)
    persons = _persons(caption) - _persons(text)
    return tuple(dict.fromkeys([*lost, *persons])) or None


def _added(caption: list[str], text: list[str], phrase: set[str]) -> Evidence | None:
    """Return the text's words that the caption does not contain: things, qualities, places, another he or she.

    Naming the gesture a second time in the phrase's own words counts as no addition.
    """
    known = {stem(word) for word in caption} | {stem(word) for word in SPARE}
    repeated = {
        place for start, end, _ in gestures_named(text) if phrase >= set(text[start:end]) for place in range(start, end)
    }
    added = [text[place] for place in content(text) if place not in repeated and stem(text[place]) not in known]
    for gendered in (MALE, FEMALE):
        if not gendered & set(caption):
            added += [word for word in text if word in gendered & FUNCTION]
    persons = _persons(text) - _persons(caption)
    return tuple(dict.fromkeys([*added, *persons])) or None


def _persons(words: list[str]) -> Counter[str]:
    """Count the mentions of persons, except a repeated one with `the`, which is the same person."""
    pairs = zip(words, ["", *words], strict=False)
    counts = Counter(word for word, before in pairs if word in PERSONS and before != "the")
    return counts | Counter(dict.fromkeys((word for word in words if word in PERSONS), 1))


def _moved_colours(caption: list[str], text: list[str]) -> Evidence | None:
    """Return colours that precede one thing in the caption and another thing in the text."""
    pairs = {pair for pair in pairwise(caption) if pair[0] in COLOURS}
    text_pairs = {pair for pair in pairwise(text) if pair[0] in COLOURS}
    moved = [f"{colour} {thing}" for colour, thing in text_pairs if _is_thing(thing) and (colour, thing) not in pairs]
    kept_colours = {colour for colour, _ in pairs}
    return tuple(sorted(pair for pair in moved if pair.split()[0] in kept_colours)) or None


def _is_thing(word: str) -> bool:
    return word[0].isalnum() and word not in FUNCTION | COLOURS | HANDS | BODY


def _task_talk(caption: str, text: str) -> Evidence | None:
    in_caption = {match[0].lower() for match in _TASK_TALK.finditer(caption)}
    talk = (match[0] for match in _TASK_TALK.finditer(text) if match[0].lower() not in in_caption)
    return tuple(dict.fromkeys(talk)) or None


def _too_long(text: str) -> Evidence | None:
    tokens = clip_tokens().count(text)
    return (str(tokens),) if tokens > CONTEXT else None
