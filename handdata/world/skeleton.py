"""The hand's skeleton: 21 joints in MediaPipe's order, human bone lengths, and a pose for each gesture with spread.

Hand space, in millimetres: a left hand with its palm towards the viewer. The wrist is the origin, x points to the
viewer's right (towards the little finger), y along the middle finger, z out of the palm. A right hand is its mirror
image in x.
"""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

WRIST, THUMB, INDEX, MIDDLE, RING, LITTLE = 0, 1, 5, 9, 13, 17  # the first joint of each chain
FINGERS = (INDEX, MIDDLE, RING, LITTLE)

_KNUCKLES = np.array([(-25.5, 89, 1), (-4, 93, 0), (16.5, 87, 0), (35, 77, 2)], float)
_PHALANGES = np.array([(43, 25, 21), (48, 29, 22), (44, 28, 22), (34, 20, 19)], float)
_THUMB_ROOT = np.array([-22.0, 22.0, 7.0])
_THUMB_BONES = np.array([43.0, 34.0, 29.0])
_CURL_TWIST = np.array([-7.0, 0.0, 8.0, 15.0])  # degrees: curled fingers point at the root of the thumb

_FINGER_RADII = np.array([(10.6, 9.4, 8.3, 7.0), (10.8, 9.6, 8.5, 7.2), (10.4, 9.1, 8.1, 6.8), (9.3, 8.0, 7.1, 6.1)])
_THUMB_RADII = np.array([15.5, 11.6, 10.2, 7.8])


@dataclass(frozen=True)
class Shape:
    """One person's hand."""

    lengths: Array  # (5, 3) bones of thumb, index, middle, ring and little finger, mm
    radii: Array  # (5, 4) at the four joints of each, mm
    knuckles: Array  # (4, 3)
    scale: float = 1.0


@dataclass(frozen=True)
class Pose:
    """Angles in degrees; the thumb by the directions of its bones."""

    flex: Array  # (4, 3) knuckle, middle and end joint of index to little finger
    spread: Array  # (4,) sideways, positive towards the little finger
    thumb: Array  # (3, 3) unit directions in hand space
    nail: Array  # (3,) direction of the thumb's nail
    reach: tuple[int, str] | None  # where the thumb's tip rests: (finger 0 to 3, "over" or "tip")


@dataclass(frozen=True)
class Extra:
    """A finger too many, in hand space."""

    joints: Array  # (4, 3) mm
    dorsal: Array  # (4, 3) per joint: unit vector out of the back of the bone that ends there
    radii: Array  # (4,) mm
    chain: int  # first joint of the finger that it looks like
    rooted: bool = False  # the palm reaches to its knuckle


@dataclass(frozen=True)
class Skeleton:
    """A posed hand in hand space."""

    joints: Array  # (21, 3) mm
    dorsal: Array  # (21, 3) per joint: unit vector out of the back of the bone that ends there
    radii: Array  # (5, 4) mm
    fingers: tuple[int, ...]  # first joints of the existing chains; malformed hands lack some
    extra: Extra | None = None
    fused: tuple[int, int] | None = None  # first joints of two fingers that have grown together


_STRAIGHT = (5, 7, 4)
_CURLED = (80, 100, 52)
_TOGETHER = (3, 0, -4, -8)
_FAN = (-7, -1, 6, 15)
_NEAR = (-3, 0, 2, 5)

# The thumb: directions of its three bones and of its nail.
THUMBS: dict[str, tuple[list[tuple[float, float, float]], tuple[float, float, float]]] = {
    "spread": ([(-0.66, 0.72, 0.22), (-0.74, 0.66, 0.05), (-0.72, 0.69, -0.05)], (-0.55, -0.1, -0.8)),
    "adjacent": ([(-0.50, 0.84, 0.22), (-0.16, 0.97, 0.15), (0.05, 0.99, 0.05)], (-0.8, 0.0, -0.55)),
    "loose": ([(-0.60, 0.76, 0.22), (-0.52, 0.85, 0.08), (-0.42, 0.90, 0.0)], (-0.65, 0.0, -0.75)),
    "up": ([(-0.66, 0.62, 0.42), (-0.96, 0.25, 0.10), (-0.99, 0.05, -0.12)], (-0.05, 0.35, -0.9)),
    "folded": ([(-0.25, 0.72, 0.64), (0.62, 0.76, -0.15), (0.93, 0.32, -0.2)], (-0.1, 0.45, 0.9)),
    "over": ([(-0.40, 0.62, 0.68), (0.20, 0.62, 0.76), (0.9, 0.42, 0.0)], (-0.2, 0.5, 0.85)),
    "pinch": ([(-0.38, 0.66, 0.66), (-0.05, 0.80, 0.60), (0.1, 0.90, 0.42)], (-0.9, -0.3, 0.1)),
}

# By gesture: index, middle, ring and little finger (| straight, . curled, o bent to the thumb), their spread, the
# thumb's pose, and the finger that its tip touches.
_Row = tuple[str, tuple[int, int, int, int], str, tuple[int, str] | None]
_POSES: dict[str, _Row] = {
    "call": ("...|", (0, 0, 0, 16), "up", None),
    "dislike": ("....", _NEAR, "up", None),
    "fist": ("....", _NEAR, "over", (1, "over")),
    "four": ("||||", _FAN, "folded", None),
    "like": ("....", _NEAR, "up", None),
    "mute": ("|...", _NEAR, "over", (1, "over")),
    "ok": ("o|||", (0, -1, 6, 14), "pinch", (0, "tip")),
    "one": ("|...", _NEAR, "over", (1, "over")),
    "palm": ("||||", _FAN, "spread", None),
    "peace": ("||..", (-15, 12, 2, 3), "over", (2, "over")),
    "peace_inverted": ("||..", (-15, 12, 2, 3), "over", (2, "over")),
    "rock": ("|..|", (-7, 0, 0, 12), "over", (1, "over")),
    "stop": ("||||", _TOGETHER, "adjacent", None),
    "stop_inverted": ("||||", _TOGETHER, "loose", None),
    "three": ("|||.", (-9, 0, 8, 4), "over", (3, "over")),
    "three2": ("||..", (-8, 4, 2, 3), "spread", None),
    "two_up": ("||..", (3, -2, 1, 3), "over", (2, "over")),
    "two_up_inverted": ("||..", (3, -2, 1, 3), "over", (2, "over")),
}
GESTURES = tuple(_POSES)

FLAWS = ("wrong bend", "backward bend", "sideways finger", "wrong length", "missing finger", "extra finger")

_FLEX = {"|": _STRAIGHT, ".": _CURLED, "o": (58, 62, 28)}


def person_shape(rng: np.random.Generator) -> Shape:
    """Draw the proportions of one person's hand."""
    lengths = np.vstack([_THUMB_BONES, _PHALANGES]) * rng.normal(1, 0.025, (5, 1)).clip(0.94, 1.06)
    thick = rng.uniform(0.93, 1.10)
    radii = np.vstack([_THUMB_RADII, _FINGER_RADII]) * thick * rng.normal(1, 0.015, (5, 1)).clip(0.96, 1.04)
    knuckles = _KNUCKLES * np.array([rng.uniform(0.96, 1.06), 1, 1])
    return Shape(lengths, radii, knuckles, rng.uniform(0.92, 1.08))


def gesture_pose(gesture: str, rng: np.random.Generator) -> Pose:
    """Draw a pose of a gesture, with the variation that people show."""
    up, spread, thumb, reach = _POSES[gesture]
    flex = np.array([_FLEX[mark] for mark in up], float)
    fan = up == "||||" and spread == _FAN
    return posed(flex, np.array([mark == "|" for mark in up]), spread, thumb, reach, rng, fan)


def posed(
    flex: Array, straight: Array, spread: tuple[float, ...], thumb: str, reach: tuple[int, str] | None,
    rng: np.random.Generator, fan: bool = False,
) -> Pose:  # fmt: skip
    """Return a pose near the given angles (degrees; flex (4, 3), straight (4,) bool, spread (4,)).

    Straight fingers vary together; those of a fan are spread more or less widely. `thumb` is a name of `THUMBS`.
    """
    flex = flex + np.where(straight[:, None], rng.normal(0, 3, (4, 3)), rng.normal(0, 4, (4, 3)))
    flex += np.where(straight, rng.normal(0, 3), 0)[:, None]
    directions, nail = THUMBS[thumb]
    angles = np.array(spread, float) + rng.normal(0, 1.5, 4)
    if fan:
        angles *= rng.uniform(0.75, 1.2)
    bones = np.array(directions) + rng.normal(0, 0.035, (3, 3))
    return Pose(flex, angles, _unit(bones), np.array(nail), reach)


def idle_pose(rng: np.random.Generator) -> Pose:
    """Draw the pose of a hanging, idle hand: HaGRID's `no_gesture`."""
    bend = rng.uniform(0.6, 1.4) * np.linspace(0.9, 1.25, 4)[:, None]
    flex = np.array([(22, 30, 16)]) * bend + rng.normal(0, 3, (4, 3))
    directions, nail = THUMBS["adjacent"]
    return Pose(
        flex, np.array(_TOGETHER, float), _unit(np.array(directions) + np.array([-0.1, 0, 0.2])), np.array(nail), None
    )


def natural_pose(rng: np.random.Generator) -> Pose:
    """Draw a pose that names no gesture: each finger bent by itself, the thumb between two of its poses."""
    curl = np.clip(rng.beta(0.7, 0.9) + rng.normal(0, 0.22, 4), 0, 1)
    straight, curled = np.array(_STRAIGHT, float), np.array(_CURLED, float)
    flex = straight + curl[:, None] * (curled - straight) * rng.uniform(0.85, 1, (4, 3)) + rng.normal(0, 3, (4, 3))
    between = rng.uniform(0, 1)
    spread = (1 - curl) * (between * np.array(_FAN) + (1 - between) * np.array(_TOGETHER)) + rng.normal(0, 1.5, 4)
    free = ["spread", "adjacent", "loose", "up"] if curl[:2].mean() < 0.8 else ["spread", "loose", "up"]
    (first, nail), (second, _) = (THUMBS[str(name)] for name in rng.choice(free, 2))
    share = rng.uniform(0, 1)
    thumb = share * np.array(first) + (1 - share) * np.array(second) + rng.normal(0, 0.035, (3, 3))
    return Pose(flex, spread, _unit(thumb), np.array(nail), None)


def pose_hand(shape: Shape, pose: Pose) -> Skeleton:
    """Return the joints of a posed hand, forward from the wrist; the thumb's tip is moved to its target."""
    joints, dorsal = np.zeros((21, 3)), np.tile([0.0, 0.0, -1.0], (21, 1))
    for finger, first in enumerate(FINGERS):
        chain, backs = finger_chain(
            shape.knuckles[finger],
            shape.lengths[finger + 1],
            pose.flex[finger],
            pose.spread[finger],
            _CURL_TWIST[finger],
        )
        joints[first : first + 4], dorsal[first : first + 4] = chain, backs
    thumb = _THUMB_ROOT + np.vstack([np.zeros(3), np.cumsum(pose.thumb * shape.lengths[0][:, None], axis=0)])
    if pose.reach:
        thumb = _reach(thumb, shape.lengths[0], _target(joints, dorsal, shape.radii, *pose.reach))
    joints[THUMB : THUMB + 4] = thumb
    bones = _unit(np.diff(thumb, axis=0, prepend=np.zeros((1, 3))))
    dorsal[THUMB : THUMB + 4] = _unit(pose.nail - (bones @ pose.nail)[:, None] * bones)
    return Skeleton(joints * shape.scale, dorsal, shape.radii * shape.scale, (THUMB, *FINGERS))


def finger_chain(knuckle: Array, lengths: Array, flex: Array, spread: float, twist: float) -> tuple[Array, Array]:
    """Return a finger's four joints (4, 3) and the directions out of the backs of its bones (4, 3)."""
    a, b = np.radians(spread), np.radians(twist)
    along = np.array([np.sin(a), np.cos(a), 0.0])
    across = np.array([np.cos(a), -np.sin(a), 0.0])
    inward = np.cos(b) * np.array([0.0, 0.0, 1.0]) - np.sin(b) * across
    angle = np.radians(np.cumsum(flex))[:, None]
    bones = np.cos(angle) * along + np.sin(angle) * inward  # (3, 3)
    backs = np.sin(angle) * along - np.cos(angle) * inward
    joints = knuckle + np.vstack([np.zeros(3), np.cumsum(bones * lengths[:, None], axis=0)])
    return joints, np.vstack([[0.0, 0.0, -1.0], backs])


def malformed_hand(shape: Shape, pose: Pose, rng: np.random.Generator) -> tuple[Skeleton, tuple[str, ...]]:
    """Return a wrong hand as image models draw it, and the names of its two to four flaws."""
    chosen = ["wrong bend", *rng.choice(FLAWS[1:], rng.integers(1, 4), replace=False)]
    flex, spread, lengths = pose.flex.copy(), pose.spread.copy(), shape.lengths.copy()
    if "wrong bend" in chosen:  # straightens fingers that should be curled, and the reverse
        for finger in rng.choice(4, rng.integers(1, 3), replace=False):
            flex[finger] = _STRAIGHT if flex[finger].sum() > 90 else np.array(_CURLED) * rng.uniform(0.4, 1)
    if "backward bend" in chosen:
        flex[rng.integers(4)] = (-10, rng.uniform(-75, -40), rng.uniform(-30, 0))
    if "sideways finger" in chosen:
        spread[rng.integers(4)] += rng.choice([-1, 1]) * rng.uniform(25, 40)
    if "wrong length" in chosen:
        lengths[rng.choice(5, 2, replace=False)] *= rng.choice([0.5, 0.6, 1.4, 1.6], 2)[:, None]
    hand = pose_hand(replace(shape, lengths=lengths), replace(pose, flex=flex, spread=spread))
    fingers, extra = hand.fingers, None
    if "missing finger" in chosen:
        gone = rng.choice(5, rng.integers(1, 3), replace=False)
        fingers = tuple(chain for number, chain in enumerate(fingers) if number not in gone)
    if "extra finger" in chosen:
        root = shape.knuckles[3] + np.array([9.0, -12.0, 0.0])
        bend = flex[3] + rng.normal(0, 8, 3)
        joints = finger_chain(root, lengths[4] * rng.uniform(0.85, 1.2), bend, spread[3] + 16, 0.0)[0] * shape.scale
        extra = Extra(joints, np.tile(hand.dorsal[LITTLE + 1], (4, 1)), hand.radii[4], LITTLE)
    return replace(hand, fingers=fingers, extra=extra), tuple(str(flaw) for flaw in chosen)


def _target(joints: Array, dorsal: Array, radii: Array, finger: int, how: str) -> Array:
    first = FINGERS[finger]
    if how == "tip":  # pad to pad
        return joints[first + 3] - dorsal[first + 3] * (radii[finger + 1, 3] + radii[0, 3]) * 0.9
    middle = 0.45 * joints[first + 1] + 0.55 * joints[first + 2]
    return middle + dorsal[first + 2] * (radii[finger + 1, 2] + radii[0, 3]) * 0.95


def _reach(chain: Array, lengths: Array, target: Array, rounds: int = 12) -> Array:
    """Bend a chain of bones until its end touches the target (FABRIK: A. Aristidou, J. Lasenby, 2011)."""
    root, chain = chain[0].copy(), chain.copy()
    for _ in range(rounds):
        chain[-1] = target
        for i in range(len(lengths) - 1, -1, -1):
            chain[i] = chain[i + 1] + _unit(chain[i] - chain[i + 1]) * lengths[i]
        chain[0] = root
        for i in range(len(lengths)):
            chain[i + 1] = chain[i] + _unit(chain[i + 1] - chain[i]) * lengths[i]
    return chain


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
