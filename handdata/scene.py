"""One picture of the mini world: who, how they hold the hand, where, in what light; drawn, and described in words.

What a caption says is chosen first and then drawn, so it is true by construction; what may fall outside the frame (the
sleeve) is said only if enough pixels show it.
"""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from handdata import backdrop
from handdata.hand_surface import (
    Camera,
    Capsule,
    Surface,
    arm_capsules,
    find_surface,
    hand_capsules,
)
from handdata.skeleton import Array, Shape, Skeleton, gesture_pose, idle_pose, malformed_hand, person_shape, pose_hand
from handdata.skin import skin_colour

SKINS: dict[str, tuple[int, int, int]] = {
    "light": (238, 196, 170),
    "tan": (208, 154, 116),
    "brown": (152, 100, 68),
    "dark": (108, 71, 51),
}
SLEEVES: dict[str, tuple[int, int, int]] = {
    "red": (190, 38, 40),
    "orange": (232, 124, 30),
    "yellow": (238, 198, 44),
    "green": (44, 128, 66),
    "blue": (40, 84, 178),
    "purple": (112, 58, 146),
    "pink": (236, 130, 168),
    "white": (238, 238, 236),
    "grey": (128, 130, 132),
    "black": (34, 34, 38),
}
PLACES = {"on the left": (0.33, 0.39), "in the middle": (0.47, 0.53), "on the right": (0.61, 0.67)}
_LIGHTS = {"neutral": (1.0, 1.0, 1.0), "warm": (1.06, 1.0, 0.88), "cool": (0.94, 1.0, 1.08)}
_BACKGROUNDS = {"plain": 0.3, "shaded": 0.2, "pattern": 0.25, "thing": 0.25}  # and their shares
_FILLS, _FILLS_SMALL = (
    (0.54, 0.72),
    (0.28, 0.36),
)  # height of the picture that 180 mm of the main and of an idle hand fill
_BARE = 0.2  # share of bare arms
_SHOWS = 0.012  # share of the picture's pixels from which on a sleeve or a bare arm is spoken of


@dataclass(frozen=True)
class Person:
    """One person of the mini world."""

    skin: str
    tone: Array  # sRGB, 0 to 1
    shape: Shape


@dataclass(frozen=True)
class Light:
    """What falls on the hands."""

    direction: Array  # unit vector towards it
    tint: Array  # (3,)
    ambient: float  # share that comes from all around


@dataclass(frozen=True)
class Hand:
    """A hand in camera space, in millimetres."""

    label: str
    side: str  # left or right: the person's own hand
    skeleton: Skeleton
    capsules: list[Capsule]
    palm_out: Array
    camera: Camera
    flaws: tuple[str, ...]  # what is wrong with a malformed hand


@dataclass(frozen=True)
class Picture:
    """A drawn picture and the truth about it."""

    image: Image.Image
    hands: list[dict[str, Any]]  # label, side, joints_2d in fractions, joints_3d in mm, box in fractions
    attributes: dict[str, Any]
    caption: str


def draw_person(rng: np.random.Generator) -> Person:
    """Draw one person: skin and hand."""
    skin = str(rng.choice(list(SKINS)))
    tone = np.array(SKINS[skin]) / 255 * rng.normal(1, 0.02, 3).clip(0.96, 1.04)
    return Person(skin, tone.clip(0, 1), person_shape(rng))


def draw_picture(
    person: Person, gesture: str, second: str, size: int, rng: np.random.Generator, malformed: bool = False
) -> Picture:
    """Draw a person making a gesture. `second` is what the other hand does: '', 'no_gesture' or a gesture.

    With `gesture` 'no_gesture' the picture shows an idle hand alone. `malformed` makes the first hand wrong.
    """
    inner = _inner_size(size)
    place = str(rng.choice(list(PLACES)))
    sleeve = "" if rng.random() < _BARE else str(rng.choice(list(SLEEVES)))
    kind = str(rng.choice(list(_BACKGROUNDS), p=list(_BACKGROUNDS.values())))
    detail = str(rng.choice(backdrop.DETAILS[kind]))
    wall, tone = str(rng.choice(list(backdrop.COLOURS))), str(rng.choice(list(_LIGHTS)))
    free = {"on the left": 1, "on the right": -1}.get(place, int(rng.choice([-1, 1])))  # the side without the hand
    canvas = backdrop.draw_backdrop(kind, detail, wall, free, size, rng) ** 2.2 * np.array(_LIGHTS[tone])
    light = Light(_light_direction(rng), np.array(_LIGHTS[tone]), rng.uniform(0.44, 0.60))
    side = str(rng.choice(["left", "right"]))
    hands = [_hold(person, gesture, side, sleeve, rng.uniform(*PLACES[place]), inner, rng, malformed=malformed)]
    if second:
        other, x = "right" if side == "left" else "left", 0.5 + 0.34 * free
        hands.insert(0, _hold(person, second, other, sleeve, x, inner, rng, small=True))
    arm = cloth = 0  # pixels
    for hand in hands:
        surface = find_surface(hand.capsules, hand.camera, (inner, inner), light.direction)
        canvas = _laid_over(canvas, surface, _paint(surface, hand, person, sleeve, light), inner)
        chain = np.array([c.chain for c in hand.capsules])[surface.capsule]
        arm, cloth = int((chain == -1).sum()), cloth + int((chain == -2).sum())
    enough = _SHOWS * inner * inner
    attributes = {
        "skin": person.skin,
        "sleeve": sleeve if cloth > enough else "",
        "bare_arm": not sleeve and arm > enough,
        "background": kind,
        "background_detail": detail,
        "background_colour": wall,
        "place": place,
        "light": tone,
        "second_hand": {"": "none", "no_gesture": "resting"}.get(second, "same"),
    }
    truth = [_truth(hand, inner) for hand in reversed(hands)]
    return Picture(_develop(canvas, rng), truth, attributes, describe(attributes, rng))


def describe(attributes: dict[str, Any], rng: np.random.Generator) -> str:
    """Return a caption as an image captioner writes it: all of it true, the gesture never named."""
    wall = f"{attributes['background_colour']} wall"
    wall = {
        "plain": f"a plain {wall}",
        "shaded": f"a {wall} in half shadow",
        "pattern": f"a {attributes['background_detail']} {wall}",
        "thing": f"a {wall} with a {attributes['background_detail']}",
    }[attributes["background"]]
    if attributes["sleeve"]:
        sleeve = f"{attributes['sleeve']} sleeve"
        sleeve = f"an {sleeve}" if sleeve.startswith("o") else f"a {sleeve}"
    else:
        sleeve = "a bare arm" if attributes["bare_arm"] else ""
    wearing = f" and {sleeve}" if sleeve else ""
    who = f"a person with {attributes['skin']} skin{wearing}"
    whose = f"a hand with {attributes['skin']} skin{wearing}"
    second = {"none": "", "resting": ", the other hand resting", "same": ", both hands held alike"}[
        attributes["second_hand"]
    ]
    place = attributes["place"]
    forms = (
        f"{who} in front of {wall}, the hand {place}{second}",
        f"{whose} {place} in front of {wall}{second}",
        f"a photo of {whose} in front of {wall}, {place}{second}",
    )
    return forms[int(rng.integers(len(forms)))]


def _light_direction(rng: np.random.Generator) -> Array:
    angle, height = np.radians(rng.uniform(-75, 75)), np.radians(rng.uniform(30, 60))
    direction = np.array([np.sin(angle) * np.sin(height), np.cos(angle) * np.sin(height), np.cos(height)])
    return direction / np.linalg.norm(direction)


# gesture: turn about the hand's length (degrees; 0 shows the palm of a left hand, 180 the back), its spread,
# and lean to the right of the picture (of a hand that shows its palm) and its spread
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
}


def _hold(
    person: Person,
    label: str,
    side: str,
    sleeve: str,
    x: float,
    inner: int,
    rng: np.random.Generator,
    small: bool = False,
    malformed: bool = False,
) -> Hand:
    """Pose a hand and put it before the camera so that it fills its part of the picture."""
    pose = idle_pose(rng) if label == "no_gesture" else gesture_pose(label, rng)
    hand, flaws = malformed_hand(person.shape, pose, rng) if malformed else (pose_hand(person.shape, pose), ())
    turns, turn_spread, lean, lean_spread = _VIEWS.get(label, ((0,), 8, 0, 6))
    turn = float(rng.choice(turns)) + turn_spread * _normal(rng)
    showing = 1 if np.cos(np.radians(turn)) >= 0 else -1
    bend = rng.normal(0, 9, 2)
    arm = _rotation(0, bend[1], bend[0])
    towards, across = arm @ np.array([0, -1.0, 0]), arm @ np.array([1.0, 0, 0])
    cuff = rng.uniform(28, 62) if sleeve else None
    capsules = hand_capsules(hand) + arm_capsules(
        hand.joints[0], towards, across, person.shape.scale, 700.0 if small else 260.0, cuff, rng.uniform(4, 10)
    )
    turned = _rotation(turn, 6 * _normal(rng), -showing * lean + lean_spread * _normal(rng))
    flip = np.diag([-1.0 if side == "right" else 1.0, 1, 1])
    matrix = flip @ turned
    hand_joints = hand.joints @ matrix.T
    middle = (hand_joints.min(axis=0) + hand_joints.max(axis=0)) / 2
    capsules = [
        replace(c, a=matrix @ c.a - middle, b=matrix @ c.b - middle, dorsal=matrix @ c.dorsal) for c in capsules
    ]
    placed = replace(hand, joints=hand_joints - middle)
    distance = rng.uniform(480, 800)
    share = rng.uniform(*(_FILLS_SMALL if small else _FILLS))
    y = rng.uniform(0.80, 0.90) if small else rng.uniform(0.42, 0.50)
    focal = share * inner * distance / 180
    reach = np.abs(placed.joints[:, :2]).max(axis=0) + 12
    room = np.array([min(x, 1 - x), min(y, 0.88 - y)]) * inner
    if not small:
        focal = min(focal, float((room * (distance - 60) / reach).min()))
    camera = Camera(distance, focal, (x * inner, y * inner))
    return Hand(label, side, placed, capsules, matrix @ np.array([0, 0, 1.0]), camera, flaws)


def _normal(rng: np.random.Generator) -> float:
    """Return a normal draw without the far ends: nobody shows a gesture from there."""
    return float(np.clip(rng.normal(), -1.8, 1.8))


def _rotation(turn: float, nod: float, lean: float) -> Array:
    """Return the matrix that turns about y, then nods about x, then leans about z (degrees)."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(np.radians([turn, nod, lean])), np.sin(np.radians([turn, nod, lean]))
    about_y = np.array([[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]])
    about_x = np.array([[1, 0, 0], [0, cb, -sb], [0, sb, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def _paint(surface: Surface, hand: Hand, person: Person, sleeve: str, light: Light) -> Array:
    """Return the colours (n, 3) of a hand's pixels in linear light."""
    cloth = (np.array([c.chain for c in hand.capsules])[surface.capsule] == -2)[:, None]
    colour = skin_colour(surface, hand.capsules, hand.skeleton.joints, hand.palm_out, person.tone**2.2)
    if sleeve:
        colour = np.where(cloth, (np.array(SLEEVES[sleeve]) / 255) ** 2.2, colour)
    direction = light.direction.astype(np.float32)
    soft = np.where(cloth, 0.0, 0.22)  # light seeps into skin, not into cloth
    direct = np.clip(((surface.normals @ direction)[:, None] + soft) / (1 + soft), 0, 1) * surface.lit[:, None]
    sky = 0.6 + 0.4 * surface.normals[:, 1:2]
    bounce = light.ambient * sky * (0.35 + 0.65 * surface.open[:, None])
    half = direction + np.array([0, 0, 1])  # between the light and the viewer
    gloss = np.clip(surface.normals @ (half / np.linalg.norm(half)), 0, 1)[:, None] ** 16 * surface.lit[:, None]
    warm = (1 - surface.open)[:, None] * np.array([0.10, -0.02, -0.05])
    shaded = colour * (0.95 * direct + bounce + np.where(cloth, 0, warm)) * light.tint
    return shaded + np.where(cloth, 0, 0.09 * gloss)


def _inner_size(size: int) -> int:
    """Return the width at which hands are drawn before they are scaled down: smooth edges for 1.5 to 4 times."""
    return max(3 * size // 4 * 2, min(4 * size, 192)) // 2 * 2


def _laid_over(canvas: Array, surface: Surface, colour: Array, inner: int) -> Array:
    """Return the canvas with a hand over it; `colour` (n, 3) belongs to the surface's pixels."""
    layer = np.zeros((inner, inner, 4), np.float32)
    layer[surface.rows, surface.columns, :3] = np.clip(colour, 0, 1)
    layer[surface.rows, surface.columns, 3] = 1
    shrink = _area_weights(inner, len(canvas))
    small = np.einsum("ri,ijc->rjc", shrink, layer, optimize=True)
    small = np.einsum("cj,rjx->rcx", shrink, small, optimize=True)
    return canvas * (1 - small[..., 3:]) + small[..., :3]


def _area_weights(old: int, new: int) -> Array:
    """Return the matrix (new, old) that averages `old` samples over the areas of `new` ones."""
    edges = np.arange(new + 1) * (old / new)
    low, high = np.maximum(edges[:-1, None], np.arange(old)), np.minimum(edges[1:, None], np.arange(1, old + 1))
    return (np.clip(high - low, 0, None) * (new / old)).astype(np.float32)


def _develop(canvas: Array, rng: np.random.Generator) -> Image.Image:
    """Return the picture in sRGB, with a little of a camera's noise."""
    small = np.clip(canvas, 0, 1) ** (1 / 2.2)
    small += rng.normal(0, rng.uniform(0.004, 0.014), small.shape)
    return Image.fromarray((small.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _truth(hand: Hand, inner: int) -> dict[str, Any]:
    flat = hand.camera.project(hand.skeleton.joints) / inner
    flesh = [c for c in hand.capsules if c.chain >= 0]
    ends = np.concatenate([[c.a, c.b] for c in flesh])
    radii = np.concatenate([[c.ra, c.rb] for c in flesh])
    reach = (radii * hand.camera.focal / (hand.camera.distance - ends[:, 2]) / inner)[:, None]
    places = hand.camera.project(ends) / inner
    low, high = (places - reach).min(axis=0), (places + reach).max(axis=0)
    return {
        "label": hand.label,
        "side": hand.side,
        "flaws": list(hand.flaws),
        "joints_2d": np.round(flat, 6).tolist(),
        "joints_3d": np.round(hand.skeleton.joints, 3).tolist(),
        "box": np.round([*low, *(high - low)], 6).tolist(),
    }
