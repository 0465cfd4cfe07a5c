"""Placement of a hand before the camera: the side it shows, its lean, its place and size in the picture."""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from handdata.world.flaws import Wrong, flawed_hand
from handdata.world.flesh import Capsule, arm_capsules, hand_capsules
from handdata.world.skeleton import (
    Array,
    Pose,
    Shape,
    Skeleton,
    gesture_pose,
    idle_pose,
    malformed_hand,
    natural_pose,
    pose_hand,
)
from handdata.world.surface import Camera
from handdata.world.visibility import changed_share

# By gesture: turns about the hand's length (degrees; 0 shows the palm of a left hand, 180 the back) and their spread,
# the lean to the right of the picture (of a hand that shows its palm) and its spread.
_VIEWS: dict[str, tuple[tuple[float, ...], float, float, float]] = {
    "call": ((0, 0, 180), 10, 45, 10),
    "dislike": ((10, 10, 170), 9, -90, 9),
    "like": ((10, 10, 170), 9, 90, 9),
    "mute": ((-58,), 7, 8, 6),
    "ok": ((12,), 8, 4, 6),
    "peace_inverted": ((180,), 8, 0, 6),
    "stop_inverted": ((180,), 8, 0, 6),
    "two_up_inverted": ((180,), 8, 0, 6),
    "no_gesture": ((20, 160), 25, 70, 20),
    "natural": ((0, 0, 180), 22, 0, 28),
}
_UPRIGHT = ((0,), 8, 0, 6)
_VISIBLE = 0.08  # a flaw changes at least this share of the hand's area
_TRIES = 12  # hands that are tried until their flaws are visible
_FILLS, _FILLS_IDLE = (0.54, 0.72), (0.28, 0.36)  # share of the picture's height that 180 mm of a hand take


@dataclass(frozen=True)
class Place:
    """The place of a hand in the picture."""

    x: float  # center of the hand, share of the picture's width
    inner: int  # width and height of the drawing, px
    idle: bool = False  # small and low, perhaps cut by the edge


@dataclass(frozen=True)
class Hand:
    """A hand in camera space, in millimetres."""

    label: str
    side: str  # left or right: the person's own hand
    joints: Array  # (21, 3)
    fingers: int  # with the thumb
    capsules: list[Capsule]
    palm_out: Array  # unit vector
    camera: Camera
    flaws: tuple[str, ...]  # of a malformed hand
    changed: float = 0.0  # share of the whole hand's pixels that its flaws change


def hold_hand(
    shape: Shape,
    label: str,
    side: str,
    sleeve: bool,
    place: Place,
    rng: np.random.Generator,
    malformed: bool = False,
    wrong: Wrong | None = None,
) -> Hand:
    """Pose a hand and put it before the camera so that it fills its part of the picture.

    `label` is a gesture, `no_gesture` (idle) or `natural` (any pose; its label is `no_gesture` too). A hand that is not
    idle is made small enough to fit into the picture. With `wrong` it gets flaws and keeps its place and size.
    """
    pose = _pose(label, rng)
    hand, flaws = malformed_hand(shape, pose, rng) if malformed else (pose_hand(shape, pose), ())
    matrix = _turned_as(label, side, rng)
    fitted = hand.joints @ matrix.T
    middle = (fitted.min(axis=0) + fitted.max(axis=0)) / 2
    arm = _arm(hand, shape.scale, sleeve, place.idle, rng)
    camera = _camera(fitted - middle, place, rng)

    def held(hand: Skeleton, flaws: tuple[str, ...]) -> Hand:
        capsules = hand_capsules(hand) + arm
        moved = [
            replace(c, a=matrix @ c.a - middle, b=matrix @ c.b - middle, dorsal=matrix @ c.dorsal) for c in capsules
        ]
        fingers = len(hand.fingers) + (hand.extra is not None) - (hand.fused is not None)
        named = "no_gesture" if label == "natural" else label
        return Hand(named, side, hand.joints @ matrix.T - middle, fingers, moved, matrix[:, 2], camera, flaws)

    whole = held(hand, flaws)
    if wrong is None:
        return whole
    best = whole
    for _ in range(_TRIES):
        tried = held(*flawed_hand(shape, pose, wrong))
        changed = changed_share(whole.capsules, tried.capsules, camera, place.inner)
        if changed > best.changed:
            best = replace(tried, changed=changed)
        if changed >= _VISIBLE:
            break
    return best


def _pose(label: str, rng: np.random.Generator) -> Pose:
    if label == "no_gesture":
        return idle_pose(rng)
    return natural_pose(rng) if label == "natural" else gesture_pose(label, rng)


def _turned_as(label: str, side: str, rng: np.random.Generator) -> Array:
    """Return the matrix from hand space to camera space: the gesture's view, and the mirror for right hands."""
    turns, turn_spread, lean, lean_spread = _VIEWS.get(label, _UPRIGHT)
    turn = float(rng.choice(turns)) + turn_spread * _normal(rng)
    showing = 1 if np.cos(np.radians(turn)) >= 0 else -1
    turned = _rotation(turn, 6 * _normal(rng), -showing * lean + lean_spread * _normal(rng))
    return np.diag([-1.0 if side == "right" else 1.0, 1, 1]) @ turned


def _arm(hand: Skeleton, scale: float, sleeve: bool, idle: bool, rng: np.random.Generator) -> list[Capsule]:
    bend = _rotation(0, rng.normal(0, 9), rng.normal(0, 9))
    cuff = rng.uniform(28, 62) if sleeve else None  # mm below the wrist
    length = 700.0 if idle else 260.0  # mm: beyond the picture's edge
    return arm_capsules(hand.joints[0], -bend[:, 1], bend[:, 0], scale, length, cuff, rng.uniform(4, 10))


def _camera(joints: Array, place: Place, rng: np.random.Generator) -> Camera:
    distance = rng.uniform(480, 800)
    y = rng.uniform(0.80, 0.90) if place.idle else rng.uniform(0.42, 0.50)
    focal = rng.uniform(*(_FILLS_IDLE if place.idle else _FILLS)) * place.inner * distance / 180
    if not place.idle:
        reach = np.abs(joints[:, :2]).max(axis=0) + 12
        room = np.array([min(place.x, 1 - place.x), min(y, 0.88 - y)]) * place.inner
        focal = min(focal, float((room * (distance - 60) / reach).min()))
    return Camera(distance, focal, (place.x * place.inner, y * place.inner))


def hand_truth(hand: Hand, inner: int) -> dict[str, Any]:
    """Return the ground truth of a hand as JSON: joints in fractions of the picture and in mm, the box of its flesh."""
    flat = hand.camera.project(hand.joints) / inner
    flesh = [c for c in hand.capsules if c.chain >= 0]
    ends = np.concatenate([[c.a, c.b] for c in flesh])
    radii = np.concatenate([[c.ra, c.rb] for c in flesh])
    reach = (radii * hand.camera.focal / (hand.camera.distance - ends[:, 2]) / inner)[:, None]
    places = hand.camera.project(ends) / inner
    low, high = (places - reach).min(axis=0), (places + reach).max(axis=0)
    return {
        "label": hand.label,
        "side": hand.side,
        "fingers": hand.fingers,
        "flaws": list(hand.flaws),
        "changed": round(hand.changed, 4),
        "joints_2d": np.round(flat, 6).tolist(),
        "joints_3d": np.round(hand.joints, 3).tolist(),
        "box": np.round([*low, *(high - low)], 6).tolist(),
    }


def _normal(rng: np.random.Generator) -> float:
    """Return a normal random number without the tails: people do not hold their hands at such angles."""
    return float(np.clip(rng.normal(), -1.8, 1.8))


def _rotation(turn: float, nod: float, lean: float) -> Array:
    """Return the matrix that turns about y, then nods about x, then leans about z (degrees)."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(np.radians([turn, nod, lean])), np.sin(np.radians([turn, nod, lean]))
    about_y = np.array([[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]])
    about_x = np.array([[1, 0, 0], [0, cb, -sb], [0, sb, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y
