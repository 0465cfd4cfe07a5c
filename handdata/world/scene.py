"""One picture of the mini world: a person, the pose and place of the hand, the light, the background, and a caption.

The attributes that a caption mentions are chosen first and then drawn, so captions are true by construction. A sleeve
or a bare arm, which may fall outside the frame, is mentioned only if enough pixels show it.
"""

# mypy: disable-error-code="no-any-return"

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from handdata.world import backdrop
from handdata.world.flaws import Wrong
from handdata.world.flesh import ARM_CHAIN, SLEEVE_CHAIN
from handdata.world.gesture_file import DrawnGesture
from handdata.world.placement import Place, hand_truth, hold_hand
from handdata.world.shading import Light, developed, inner_size, laid_over, lit_colours
from handdata.world.skeleton import Array, Shape, person_shape
from handdata.world.skin import skin_colour
from handdata.world.surface import find_surface

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
_BACKGROUNDS = {"plain": 0.3, "shaded": 0.2, "pattern": 0.25, "thing": 0.25}  # shares of the pictures
_BARE = 0.2  # share of bare arms
_SHOWS = 0.012  # a caption mentions a sleeve or a bare arm that covers more than this share of the pixels


@dataclass(frozen=True)
class Person:
    """One person of the mini world."""

    skin: str
    tone: Array  # sRGB, 0 to 1
    shape: Shape


@dataclass(frozen=True)
class Picture:
    """A drawn picture and its ground truth."""

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
    person: Person,
    gesture: str,
    second: str,
    size: int,
    rng: np.random.Generator,
    malformed: bool = False,
    wrong: Wrong | None = None,
    drawn: Mapping[str, DrawnGesture] = MappingProxyType({}),
) -> Picture:
    """Draw a person making a gesture, `size` pixels wide and high.

    `second` is what the other hand does: '' (not in the picture), 'no_gesture' or a gesture. With `gesture`
    'no_gesture' the picture shows an idle hand alone, with 'natural' a hand in any pose. `malformed` or `wrong` makes
    the first hand wrong; with `wrong` nothing else in the picture changes. `drawn` are gestures of files, by name.
    """
    inner = inner_size(size)
    chosen = _choose_attributes(person, second, rng)
    place, sleeve, tint = chosen["place"], chosen["sleeve"], np.array(_LIGHTS[chosen["light"]])
    free = {"on the left": 1, "on the right": -1}.get(place, int(rng.choice([-1, 1])))  # the side without the hand
    wall = (chosen["background"], chosen["background_detail"], chosen["background_colour"])
    canvas = backdrop.draw_backdrop(*wall, free, size, rng) ** 2.2 * tint
    light = Light(_light_direction(rng), tint, rng.uniform(0.44, 0.60))
    side = str(rng.choice(["left", "right"]))
    main = Place(rng.uniform(*PLACES[place]), inner)
    hands = [hold_hand(person.shape, gesture, side, bool(sleeve), main, rng, malformed, wrong, drawn.get(gesture))]
    if second:  # behind the first
        other, aside = "right" if side == "left" else "left", Place(0.5 + 0.34 * free, inner, idle=True)
        hands.insert(0, hold_hand(person.shape, second, other, bool(sleeve), aside, rng, drawn=drawn.get(second)))
    arm = cloth = 0  # pixels
    for hand in hands:
        surface = find_surface(hand.capsules, hand.camera, (inner, inner), light.direction)
        chain = np.array([capsule.chain for capsule in hand.capsules])[surface.capsule]
        colour = skin_colour(surface, hand.capsules, hand.joints, hand.palm_out, person.tone**2.2)
        if sleeve:
            colour[chain == SLEEVE_CHAIN] = (np.array(SLEEVES[sleeve]) / 255) ** 2.2
        canvas = laid_over(canvas, surface, lit_colours(surface, colour, chain[:, None] == SLEEVE_CHAIN, light), inner)
        arm, cloth = int((chain == ARM_CHAIN).sum()), cloth + int((chain == SLEEVE_CHAIN).sum())
    enough = _SHOWS * inner * inner
    visible = {"sleeve": sleeve if cloth > enough else "", "bare_arm": not sleeve and arm > enough}
    attributes = chosen | visible
    truth = [hand_truth(hand, inner) for hand in reversed(hands)]
    return Picture(developed(canvas, rng), truth, attributes, describe(attributes, rng))


def _choose_attributes(person: Person, second: str, rng: np.random.Generator) -> dict[str, Any]:
    """Return the attributes of a picture before it is drawn; parts of an arm may turn out to be outside the frame."""
    place = str(rng.choice(list(PLACES)))
    sleeve = "" if rng.random() < _BARE else str(rng.choice(list(SLEEVES)))
    background = str(rng.choice(list(_BACKGROUNDS), p=list(_BACKGROUNDS.values())))
    return {
        "skin": person.skin,
        "sleeve": sleeve,
        "bare_arm": not sleeve,
        "background": background,
        "background_detail": str(rng.choice(backdrop.DETAILS[background])),
        "background_colour": str(rng.choice(list(backdrop.COLOURS))),
        "place": place,
        "light": str(rng.choice(list(_LIGHTS))),
        "second_hand": {"": "none", "no_gesture": "resting"}.get(second, "same"),
    }


def describe(attributes: dict[str, Any], rng: np.random.Generator) -> str:
    """Return a caption in the style of an image captioner: true in every word, without the gesture's name."""
    colour, detail = attributes["background_colour"], attributes["background_detail"]
    wall = {
        "plain": f"a plain {colour} wall",
        "shaded": f"a {colour} wall in half shadow",
        "pattern": f"a {colour} {detail} wall",
        "thing": f"a {colour} wall with a {detail}",
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
