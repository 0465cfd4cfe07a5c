"""Placement of a hand before the camera: the side it shows, its lean, its place and size in the picture.

A flawed hand is drawn again until its flaws are visible, as a comparison with the right hand on a coarse grid shows.
"""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from handdata.world.flaws import Wrong, flawed_hand
from handdata.world.flesh import Capsule, arm_capsules, hand_capsules
from handdata.world.gesture_file import DrawnGesture
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
from handdata.world.surface import Camera, find_surface

# By gesture: turns about the hand's length (degrees; 0 shows the palm of a left hand, 180 the back) and their spread,
# the lean to the right of the picture (of a hand that shows its palm) and its spread.
_View = tuple[tuple[float, ...], float, float, float]
_VIEWS: dict[str, _View] = {
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
_UPRIGHT: _View = ((0,), 8, 0, 6)
_VISIBLE = 0.08  # a flaw changes at least this share of the hand's area
_TRIES = 12  # hands that are tried until their flaws are visible
_GRID = 64  # pixels of the comparison's longer side
_TURNED = 0.75  # cosine: a surface that faces another way by more than 41 degrees has changed
_LIGHT = np.array([0.0, 0.0, 1.0])  # find_surface wants one; its shadows are not used
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
    drawn: DrawnGesture | None = None,
) -> Hand:
    """Pose a hand and put it before the camera so that it fills its part of the picture.

    `label` is a gesture (of the file `drawn`, if any), `no_gesture` (idle) or `natural` (any pose, labelled
    `no_gesture`). A hand that is not idle fits into the picture. With `wrong` it keeps its place and size.
    """
    pose = drawn.pose(rng) if drawn else _pose(label, rng)
    hand, flaws = malformed_hand(shape, pose, rng) if malformed else (pose_hand(shape, pose), ())
    matrix = _turned_as(label, side, rng, drawn)
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


def _turned_as(label: str, side: str, rng: np.random.Generator, drawn: DrawnGesture | None) -> Array:
    """Return the matrix from hand space to camera space: the gesture's view, and the mirror for right hands."""
    turns, turn_spread, lean, lean_spread = _VIEWS.get(label, _UPRIGHT)
    if drawn:
        view = drawn.view
        turns, turn_spread, lean, lean_spread = view.turn, view.turn_spread, view.lean, view.lean_spread
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


def changed_share(right: list[Capsule], wrong: list[Capsule], camera: Camera, inner: int) -> float:
    """Return the share of the right hand's pixels in which the wrong hand looks different, arms left out.

    A pixel is different where only one of the hands covers it, or where their surfaces face other ways. `inner` is the
    width and height of the picture that the camera is made for.
    """
    scale = _GRID / inner
    small = Camera(camera.distance, camera.focal * scale, (camera.center[0] * scale, camera.center[1] * scale))
    seen, other = (_normals([c for c in hand if c.chain >= 0], small) for hand in (right, wrong))
    covered, both = seen.any(axis=2), seen.any(axis=2) & other.any(axis=2)
    different = (covered != other.any(axis=2)) | (both & ((seen * other).sum(axis=2) < _TURNED))
    return float(different.sum() / max(covered.sum(), 1))


def _normals(hand: list[Capsule], camera: Camera) -> Array:
    """Return the surface's normals (grid, grid, 3), zero where nothing is seen."""
    surface = find_surface(hand, camera, (_GRID, _GRID), _LIGHT)
    normals = np.zeros((_GRID, _GRID, 3))
    normals[surface.rows, surface.columns] = surface.normals
    return normals
