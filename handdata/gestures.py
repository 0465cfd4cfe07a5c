"""HaGRID's 33 gestures and the phrases for them, from `prompts/gestures.toml`."""

import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Literal

from handdata.errors import UserError, require_known
from handdata.shipped import resource

PAPER_GESTURES = ("call", "four", "like", "mute", "ok", "palm")  # Hand1000, section 4


@dataclass(frozen=True)
class Gesture:
    """A gesture: a row of `prompts/gestures.toml`."""

    phrase: str  # the text of a row contains it exactly once
    words: tuple[str, ...]  # other names of the gesture, which the text of another gesture must not contain
    facing: Literal["palm", "back", "side", "any"]  # the side of the hand that the viewer sees
    hands: int  # number of hands that make it: 1 or 2


@cache
def gestures() -> dict[str, Gesture]:
    """Return all gestures by HaGRID's name, in alphabetical order."""
    table = tomllib.loads(resource("prompts/gestures.toml").read_text(encoding="utf-8"))
    return {name: Gesture(**{**row, "words": tuple(row["words"])}) for name, row in table.items()}


def require_one(name: str, option: str) -> None:
    """Raise `UserError` for a name that is not one of HaGRID's gestures, `all` included, naming the option."""
    if name == "all":
        raise UserError(f"{option} all is a mixture of all gestures: name one of them, for instance call")
    require_known(name, gestures(), "gesture", f" ({option}; all gestures are in prompts/gestures.toml)")


def require_trainable(names: tuple[str, ...], option: str) -> None:
    """Raise `UserError` unless the names are HaGRID's gestures, at least one, or `all` alone, naming the option."""
    if not names:
        raise UserError(f"{option} is empty: name one or more gestures of the dataset, or all")
    if "all" in names and len(names) > 1:
        raise UserError(f"{option} {' '.join(names)}: give all alone, or the names of the gestures")
    for name in () if names == ("all",) else names:
        require_one(name, option)


def require(names: tuple[str, ...]) -> None:
    """Raise `UserError` for the first name that is not one of HaGRID's gestures."""
    for name in names:
        require_known(name, gestures(), "gesture", " All gestures are in prompts/gestures.toml")
