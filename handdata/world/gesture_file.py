"""Gestures to draw that are not among the mini world's own: a TOML file with a name, joint angles and a view.

`manifests/gestures/` has examples with comments. The angles are those of a typical hand; every drawn hand varies from
them as the built-in gestures do.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from handdata.errors import UserError
from handdata.gestures import Gesture, require_own
from handdata.readers import read_text
from handdata.recipe import RenderOptions
from handdata.shipped import resource
from handdata.strict_toml import from_table
from handdata.world.skeleton import GESTURES, THUMBS, Pose, posed

_FINGERS = ("index", "middle", "ring", "little")


@dataclass(frozen=True)
class Joints:
    """Angles in degrees: 0 is straight."""

    index: tuple[float, ...]  # knuckle, middle and end joint
    middle: tuple[float, ...]
    ring: tuple[float, ...]
    little: tuple[float, ...]
    spread: tuple[float, ...]  # sideways, index to little finger, positive towards the little finger
    thumb: str = "spread"  # name of one of the thumb's poses
    touches: Literal["", "index", "middle", "ring", "little"] = ""  # finger on whose tip the thumb's tip rests


@dataclass(frozen=True)
class View:
    """How the hand is held, in degrees."""

    turn: tuple[float, ...] = (0.0,)  # about its length: 0 shows the palm, 180 the back; one of them is drawn
    turn_spread: float = 8.0
    lean: float = 0.0  # to the right of the picture, of a hand that shows its palm
    lean_spread: float = 6.0


@dataclass(frozen=True)
class DrawnGesture:
    """A gesture file: the keys of a recipe's [gesture.NAME], and how the hand is drawn."""

    name: str
    phrase: str
    joints: Joints
    words: tuple[str, ...] = ()
    facing: Literal["palm", "back", "side", "any"] = "any"
    hands: int = 1
    view: View = field(default_factory=View)

    def pose(self, rng: np.random.Generator) -> Pose:
        """Draw a pose of the gesture, with the variation that people show."""
        flex = np.array([getattr(self.joints, finger) for finger in _FINGERS], float)
        reach = (_FINGERS.index(self.joints.touches), "tip") if self.joints.touches else None
        return posed(flex, flex.sum(axis=1) < 60, self.joints.spread, self.joints.thumb, reach, rng)


def gesture_files(options: RenderOptions) -> Mapping[str, DrawnGesture]:
    """Return the gestures of the option `gesture_file` by name. Raises `UserError` for a file that cannot be drawn."""
    return {drawn.name: drawn for drawn in map(_load, options.gesture_file)}


def texts(options: RenderOptions) -> list[str]:
    """Return the content of the gesture files: it decides the pictures."""
    return [read_text(_find(name), "--gesture-file") for name in options.gesture_file]


def drawn_names(options: RenderOptions) -> tuple[str, ...]:
    """Return the gestures to draw: those named, else those of the gesture files, else all 18."""
    return tuple(dict.fromkeys(options.gestures or gesture_files(options) or GESTURES))


def _find(name: str) -> Path:
    """Return a gesture file given as a path, or by the name of a shipped one."""
    shipped = resource("manifests/gestures")
    if not Path(name).is_file() and (shipped / f"{name}.toml").is_file():
        return shipped / f"{name}.toml"
    if not Path(name).is_file():
        known = ", ".join(sorted(path.stem for path in shipped.glob("*.toml")))
        raise UserError(f"--gesture-file {name} does not exist: give a TOML file, or a shipped one ({known})")
    return Path(name)


@cache
def _load(name: str) -> DrawnGesture:
    path = _find(name)
    where = f"--gesture-file {path}"
    try:
        table = tomllib.loads(read_text(path, "--gesture-file"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid TOML: {error}") from None
    drawn = from_table(DrawnGesture, table, where)
    try:
        require_own({drawn.name: Gesture(drawn.phrase, drawn.words, drawn.facing, drawn.hands)})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    joints = drawn.joints
    for key, count in (*((finger, 3) for finger in _FINGERS), ("spread", 4)):
        if len(getattr(joints, key)) != count:
            raise UserError(f"{where}, joints.{key} has {len(getattr(joints, key))} angles: give {count}")
    if not drawn.view.turn:
        raise UserError(f"{where}, view.turn is empty: give one angle or more")
    if joints.thumb not in THUMBS:
        raise UserError(f"{where}, joints.thumb is '{joints.thumb[:40]}': choose from {', '.join(THUMBS)}")
    return drawn
