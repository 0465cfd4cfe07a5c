"""One picture of the mini world: who, how they hold the hand, where, in what light; drawn, and described in words.

What a caption says is chosen first and then drawn, so it is true by construction; what may fall outside the frame (the
sleeve) is said only if enough pixels show it.
"""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from handdata.world import backdrop
from handdata.world.flesh import ARM_CHAIN, SLEEVE_CHAIN
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
_BACKGROUNDS = {"plain": 0.3, "shaded": 0.2, "pattern": 0.25, "thing": 0.25}  # and their shares
_BARE = 0.2  # share of bare arms
_SHOWS = 0.012  # share of the picture's pixels from which on a sleeve or a bare arm is spoken of


@dataclass(frozen=True)
class Person:
    """One person of the mini world."""

    skin: str
    tone: Array  # sRGB, 0 to 1
    shape: Shape


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
    inner = inner_size(size)
    place = str(rng.choice(list(PLACES)))
    sleeve = "" if rng.random() < _BARE else str(rng.choice(list(SLEEVES)))
    kind = str(rng.choice(list(_BACKGROUNDS), p=list(_BACKGROUNDS.values())))
    detail = str(rng.choice(backdrop.DETAILS[kind]))
    wall, tone = str(rng.choice(list(backdrop.COLOURS))), str(rng.choice(list(_LIGHTS)))
    free = {"on the left": 1, "on the right": -1}.get(place, int(rng.choice([-1, 1])))  # the side without the hand
    canvas = backdrop.draw_backdrop(kind, detail, wall, free, size, rng) ** 2.2 * np.array(_LIGHTS[tone])
    light = Light(_light_direction(rng), np.array(_LIGHTS[tone]), rng.uniform(0.44, 0.60))
    side = str(rng.choice(["left", "right"]))
    main = Place(rng.uniform(*PLACES[place]), inner)
    hands = [hold_hand(person.shape, gesture, side, bool(sleeve), main, rng, malformed)]
    if second:
        other, aside = "right" if side == "left" else "left", Place(0.5 + 0.34 * free, inner, idle=True)
        hands.insert(0, hold_hand(person.shape, second, other, bool(sleeve), aside, rng))
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
    truth = [hand_truth(hand, inner) for hand in reversed(hands)]
    return Picture(developed(canvas, rng), truth, attributes, describe(attributes, rng))


def describe(attributes: dict[str, Any], rng: np.random.Generator) -> str:
    """Return a caption as an image captioner writes it: all of it true, the gesture never named."""
    wall = f"{attributes['background_colour']} wall"
    wall = {
        "plain": f"a plain {wall}",
        "shaded": f"a {wall} in half shadow",
        "pattern": f"a {attributes['background_colour']} {attributes['background_detail']} wall",
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
