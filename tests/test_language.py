"""Plain technical English in packages and pages: each pattern finds a habit that makes readers stumble.

Scanned are the comments, docstrings and strings of handdata and handtrain, their templates, README.md and docs.
A string without a space is data (a key, a word of a list), not prose. The parts of strings in `DATA` are exempt.
"""

import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from handdata.texts.checks import DRAFT_FAILURES, FAILURES
from tests import ROOT

PACKAGES = [path for name in ("handdata", "handtrain") for path in (ROOT / name).rglob("*.py")]
TEMPLATES = [
    path for name in ("handdata", "handtrain") for end in ("md", "html") for path in (ROOT / name).rglob(f"*.{end}")
]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
EXAMPLES = [*(ROOT / "docs").rglob("*.py")]

# Modules whose trailing comments are the help of flags.
FLAGS = [
    ROOT / name
    for name in (
        "handdata/recipe/__init__.py", "handdata/cli/flags.py", "handtrain/cli/flags.py", "handtrain/options.py",
        "handtrain/presets.py", "handtrain/mini/__main__.py",
    )
]  # fmt: skip

# Parts of strings that are data, where other words would change results.
DATA = [
    *FAILURES.values(), *DRAFT_FAILURES.values(),  # read by the language model after a rejected draft
    " px, centre", " px and centre crop",  # hands.UNION_CROP and HAND_CROP: keys of the cache of features
    "against beside between",  # words of english.py
]  # fmt: skip

# The habit, how to write instead, and the pattern (on a line of prose).
HABITS = {
    "a title or docstring 'What ...': name the thing": r'^\s*(r?""")(With what|What)\b|^#+ What\b|^\s*# What\b',
    "'Tell whether', 'Say what': 'Return whether', 'Print'": r'^\s*(r?""")(Tell|Say)\b',
    "'Return what ...': name the result": r"\b(Return|Yield) what\b",
    "'is no X', 'is none': 'unknown X', 'is not an X', 'without X'": r"\b(is|are) (no|none|nothing)\b(?! longer\b)",
    "'say', 'tell' of a program: print, return, state, name": (
        r"\b(?<!paper )(says|said|tells|told)\b|\b[Ss]ay (--|\d|what|which|whether|where|how|so)"
    ),
    "'anew', 'mend': rebuilt, again, fix": r"\b(anew|mend|mends|mended|mending)\b",
    "'centre': center": r"\bcentre[sd]?\b|\bcentring\b",
    "'lie' of data: be, be stored": r"\b(lie|lies|lying)\b",
    "'stand' of data: be, appear": r"(?<!`)\bstands?\b(?! for\b| in for\b|-in)",
    "'go on': continue, resume": r"\b(go|goes|going|went) on\b",
    "'beside': next to, in addition to": r"\bbeside\b(?! between above)",  # but a word list in english.py has it
    "'far' of a place: remote": (
        r"\b(?<!by )(?<!so )(?<!too )(?<!how )(?<!How )(?<!as )(?<!very )[Ff]ar\b"
        r"(?! (from|more|less|enough|apart|ends))"
    ),
    "'asked': requested, prompted": r"(?<!person )\basked\b",
    "two spellings of one term: dataset": r"\bdata sets?\b",
}


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of prose of a file with their numbers."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds and " " in token.string:
            rest = functools.reduce(lambda text, part: text.replace(part, ""), DATA, token.string)
            yield from enumerate(re.sub(r"\{[^{}]*\}", "{}", rest).splitlines(), token.start[0])


@functools.cache
def prose() -> list[tuple[str, int, str]]:
    """Return all lines of prose as (file, number, line)."""
    files = sorted({*PACKAGES, *TEMPLATES, *PAGES, *EXAMPLES})
    return [(str(path.relative_to(ROOT)), number, line) for path in files for number, line in lines_of(path)]


@pytest.mark.parametrize("habit", HABITS)
def test_no_line_has_the_habit(habit):
    pattern = re.compile(HABITS[habit])
    hits = [f"{file}:{number}: {line.strip()[:140]}" for file, number, line in prose() if pattern.search(line)]
    assert not hits, f"{len(hits)} lines; {habit}\n" + "\n".join(hits)


@pytest.mark.parametrize("path", FLAGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_help_of_a_flag_is_a_phrase_of_its_own(path):
    """Not `of the draws` but `random seed for sampling`: the comment behind a field is read without the field."""
    hits = [f"{path}:{number}: {line}" for number, line in lines_of(path) if re.match(r"# (of|asked|likewise)\b", line)]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(
    ("habit", "line"),
    [
        ("a title or docstring", '    """What the networks make of every side."""'),
        ("'Return what", '    """Return what gives one row per image."""'),
        ("'is no X'", "--until fetchh is no stage"),
        ("'say'", "the page says which rows failed"),
        ("'stand'", "the shortfall stands in the card"),
        ("'far'", "what was read of far annotations is kept"),
    ],
)
def test_the_patterns_find_what_they_describe(habit, line):
    (pattern,) = (pattern for name, pattern in HABITS.items() if name.startswith(habit))
    assert re.search(pattern, line)


@pytest.mark.parametrize(
    "line",
    [
        "the commit that a branch stands for, with a stand-in for Inception",
        "by far the slowest part; so far; farther than 95 % of the hands",
        "the paper says so; `if value is None:`; a larger dataset; it is no longer there",
    ],
)
def test_the_patterns_spare_ordinary_english(line):
    assert not [habit for habit, pattern in HABITS.items() if re.search(pattern, line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_have_short_lines_and_room_before_a_heading(page):
    previous, code = "", False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        code ^= line.startswith("```")
        if not code and not line.startswith(("|", "!", "    ")):
            assert len(line) <= 120, f"{page.name}:{number} has {len(line)} columns"
        if not code and line.startswith("#") and number > 1:
            assert not previous, f"{page.name}:{number}: a blank line belongs before '{line}'"
        previous = line
