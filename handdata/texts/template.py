"""Insert a gesture phrase into a caption by rule, for captions where no draft of a language model passes the checks."""

import re
from collections.abc import Iterator

from handdata.gestures import gestures
from handdata.texts.answers import LONGEST
from handdata.texts.chat import plain
from handdata.texts.checks import failures, sentence_ends
from handdata.texts.english import FUNCTION, PHRASE, about_hands, content, gestures_named, mask_phrase, spans


def splice(caption: str, gesture: str) -> str | None:
    """Return the caption with the phrase inserted by rule, None if no such text passes the checks."""
    if len(caption) > LONGEST:
        return None
    for text in _splices(caption, gesture):
        if not failures(caption, gesture, text):
            return text
    return None


def _splices(caption: str, gesture: str) -> Iterator[str]:
    """Yield texts by rule, the most natural first: phrase appended or in place of a gesture's name, then bare words."""
    phrase = gestures()[gesture].phrase
    caption = _one_clause(mask_phrase(caption, phrase).replace(PHRASE, " "))
    tokens = [word for word, _, _ in spans(caption)]
    hands = about_hands(tokens)
    if gestures_named(tokens):
        yield _replace_gestures(caption, tokens, hands, phrase)
    else:
        yield _append(caption, phrase)
    bare = [tokens[place] for place in content(tokens) if place not in hands]
    yield _append(" ".join(bare) or "a hand", phrase)


def _replace_gestures(caption: str, tokens: list[str], hands: set[int], phrase: str) -> str:
    """Replace the first gesture's name and the words about it by the phrase, and cut out the other gestures."""
    places = spans(caption)
    clauses: list[tuple[int, int]] = []
    for start, end, _ in gestures_named(tokens):
        first, last = _clause(tokens, hands, start, end)
        if not clauses or first > clauses[-1][1]:
            clauses.append((first, last))
    for number, (first, last) in reversed(list(enumerate(clauses))):
        replacement = phrase if number == 0 else ""
        caption = f"{caption[: places[first][1]]} {replacement} {caption[places[last][2] :]}"
    return re.sub(r"\s+([,.])", r"\1", " ".join(caption.split())).strip(" ,")


def _clause(tokens: list[str], hands: set[int], start: int, end: int) -> tuple[int, int]:
    """Extend a place over adjacent words about hands, function words between them and the ones before."""
    first, last = start, end - 1
    for step in (-1, 1):
        here = first if step < 0 else last
        while (beyond := _next_about_hands(tokens, hands, here, step)) is not None:
            here = beyond
        first, last = (here, last) if step < 0 else (first, here)
    while first > 0 and tokens[first - 1] in FUNCTION:
        first -= 1
    return first, last


def _next_about_hands(tokens: list[str], hands: set[int], here: int, step: int) -> int | None:
    for place in range(here + step, here + 4 * step, step):
        if place in hands:
            return place
        if not 0 <= place < len(tokens) or tokens[place] not in FUNCTION:
            return None
    return None


def _one_clause(caption: str) -> str:
    """Return a caption on one line, without quotation marks, markup and ends of sentences inside it."""
    caption = re.sub(r'["“”*#{}]', "", plain(caption)).rstrip(" .!?…,;:")
    for start, end in reversed(sentence_ends(caption)):
        caption = f"{caption[:start]}, {caption[end:]}"
    return re.sub(r"\s*[:;]", ",", caption).strip()


def _append(caption: str, phrase: str) -> str:
    return f"{caption}, {phrase}" if len(caption.split()) > 6 or "," in caption else f"{caption} {phrase}"
