"""HaGRID's 33 gestures and the phrases for them, from `prompts/gestures.toml`, and a recipe's own.

A recipe's table `[gesture.NAME]` adds a gesture. `gestures` returns it inside a block `with also(recipe.gesture)`, as
`decimal.localcontext` changes the arithmetic of a block; threads that the block starts do not see them.
"""

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Literal

from handdata.errors import UserError, require_known
from handdata.shipped import resource

PAPER_GESTURES = ("call", "four", "like", "mute", "ok", "palm")  # Hand1000, section 4

_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")  # it becomes the name of a folder and of a configuration
_PHRASE = re.compile(r"[^\W_](?:[^\W_]|[ ,'’-]){0,79}")
_RESERVED = ("all", "no_gesture", "natural")  # a dataset's mixture, HaGRID's idle hands, the drawn free poses


@dataclass(frozen=True)
class Gesture:
    """A gesture: a row of `prompts/gestures.toml`, or a table `[gesture.NAME]` of a recipe."""

    phrase: str  # the text of a row contains it exactly once
    words: tuple[str, ...] = ()  # other names of the gesture, which the text of another gesture must not contain
    facing: Literal["palm", "back", "side", "any"] = "any"  # the side of the hand that the viewer sees
    hands: int = 1  # number of hands that make it: 1 or 2


Own = tuple[tuple[str, Gesture], ...]  # a recipe's own gestures by name, in its order

_own: ContextVar[Own] = ContextVar("own gestures", default=())


def gestures() -> dict[str, Gesture]:
    """Return all gestures by name: HaGRID's in alphabetical order, then those of the block that `also` began."""
    return _together(_own.get())


def own_gestures() -> Own:
    """Return the gestures that `also` has added here."""
    return _own.get()


@contextmanager
def also(own: Mapping[str, Gesture] | Own) -> Iterator[None]:
    """Add a recipe's own gestures to those of `gestures` in a block."""
    token = _own.set(tuple(own.items()) if isinstance(own, Mapping) else own)
    try:
        yield
    finally:
        _own.reset(token)


@cache
def _together(own: Own) -> dict[str, Gesture]:
    table = tomllib.loads(resource("prompts/gestures.toml").read_text(encoding="utf-8"))
    return {name: Gesture(**{**row, "words": tuple(row["words"])}) for name, row in table.items()} | dict(own)


def require_own(own: Mapping[str, Gesture]) -> None:
    """Raise `UserError` for the first of a recipe's own gestures whose name or phrase cannot be used."""
    phrases = {gesture.phrase: name for name, gesture in _together(()).items()}
    for name, gesture in own.items():
        where = f"[gesture.{name}]"
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise UserError(f"{where}: a gesture's name is up to 40 small letters, digits and _, not '{name[:60]}'")
        if name in _together(()):
            raise UserError(f"{where}: {name} is one of HaGRID's gestures: choose another name, or leave the table out")
        if not _PHRASE.fullmatch(gesture.phrase):
            raise UserError(
                f"{where}: the phrase is up to 80 letters, digits, blanks, commas and hyphens, such as 'making vulcan"
                f" salute hand gesture', not {gesture.phrase[:60]!r}"
            )
        if phrases.setdefault(gesture.phrase, name) != name:
            raise UserError(f"{where}: '{gesture.phrase}' is the phrase of {phrases[gesture.phrase]}: choose another")
        if gesture.hands not in (1, 2):
            raise UserError(f"{where}: 'hands' is {gesture.hands}, it must be 1 or 2")


def require_one(name: str, option: str, more: Collection[str] = ()) -> None:
    """Raise `UserError` for a name that is neither a gesture nor one of `more`; for `all` too. It names the option."""
    if name == "all":
        raise UserError(f"{option} all is a mixture of all gestures: name one of them, for instance call")
    known = {*gestures(), *(other for other in more if _NAME.fullmatch(other))}
    hint = f" ({option}; HaGRID's gestures are in prompts/gestures.toml, further ones must be in the dataset)"
    require_known(name, sorted(known), "gesture", hint)


def require_trainable(names: tuple[str, ...], option: str, more: Collection[str] = ()) -> None:
    """Raise `UserError` unless the names are gestures or of `more`, at least one, or `all` alone, naming the option."""
    if not names:
        raise UserError(f"{option} is empty: name one or more gestures of the dataset, or all")
    if "all" in names and len(names) > 1:
        raise UserError(f"{option} {' '.join(names)}: give all alone, or the names of the gestures")
    for name in () if names == ("all",) else names:
        require_one(name, option, more)


def require(names: tuple[str, ...], own: Collection[str] = ()) -> None:
    """Raise `UserError` for the first name that is neither a gesture nor one of a recipe's own."""
    for name in names:
        require_known(
            name,
            [*gestures(), *own],
            "gesture",
            " All gestures are in prompts/gestures.toml; a recipe adds its own as [gesture.NAME] with a phrase",
        )
