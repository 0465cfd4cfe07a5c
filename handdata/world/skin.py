"""Colour of the skin at each point of the surface: creases, knuckle folds, nails, redness, lighter palms."""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handdata.world.flesh import ARM_CHAIN, Capsule
from handdata.world.skeleton import MIDDLE, Array
from handdata.world.surface import Floats, Surface

# Lines of the palm, in palm coordinates (share of the width from the thumb's side, share of the way up to the knuckles)
_PALM_LINES = (
    ((1.02, 0.80), (0.70, 0.74), (0.40, 0.82), (0.24, 0.98)),  # heart
    ((0.02, 0.72), (0.30, 0.66), (0.60, 0.56), (0.88, 0.44)),  # head
    ((0.02, 0.70), (0.26, 0.58), (0.36, 0.32), (0.34, 0.04)),  # life
)


@dataclass(frozen=True)
class _Bones:
    """The capsule nearest to each point of a surface, as arrays of n."""

    chain: NDArray[np.int64]
    segment: NDArray[np.int64]
    radius: Floats  # mm
    length: Floats  # mm
    start: Floats  # (n, 3)
    direction: Floats  # (n, 3)
    dorsal: Floats  # (n, 3)
    back: Floats  # 1 where the surface faces the bone's back, -1 on the palm's side


def skin_colour(surface: Surface, capsules: list[Capsule], joints: Array, palm_out: Array, tone: Array) -> Floats:
    """Return the colour (n, 3), linear light, of the points of a hand whose skin is of `tone` (linear light).

    `joints` (21, 3) and `palm_out`, the unit vector out of the palm, are in the surface's space.
    """
    bones = _nearest_bones(surface, capsules)
    dark, red = _folds(surface.along, bones)
    palm = (bones.chain == 0) | ((bones.chain > 0) & (bones.segment == 1))
    inside = surface.normals @ palm_out.astype(np.float32)
    if np.any(palm):
        dark[palm] += 0.34 * _palm_lines(surface.points[palm], joints) * np.clip(inside[palm] * 2 - 0.2, 0, 1)
    up = (joints[MIDDLE] - joints[0]) / np.linalg.norm(joints[MIDDLE] - joints[0])
    above = (surface.points - joints[0]) @ up.astype(np.float32)  # mm from the wrist
    inside = inside * np.where(
        bones.chain <= 0, np.clip(above / 30 + 0.2, 0, 1), 1
    )  # the palm's colour ends at the wrist
    fingers = np.clip(-bones.back, 0, 1) * (bones.chain > 0)
    pale = np.where(palm | (bones.chain == ARM_CHAIN), np.clip(inside, 0, 1), fingers)
    colour = _mix(tone, red + 0.25 * pale, pale, dark)
    nail = _nails(surface.points, bones)[:, None]
    bed = tone * np.array([1.08, 0.98, 1.0]) + np.array([0.10, 0.07, 0.07])
    return (colour * (1 - nail) + nail * bed).astype(np.float32)


def _nearest_bones(surface: Surface, capsules: list[Capsule]) -> _Bones:
    which = surface.capsule
    bone = np.array([c.b - c.a for c in capsules], np.float32)
    length = np.linalg.norm(bone, axis=1)
    dorsal = np.array([c.dorsal for c in capsules], np.float32)[which]
    return _Bones(
        chain=np.array([c.chain for c in capsules])[which],
        segment=np.array([c.segment for c in capsules])[which],
        radius=np.array([(c.ra + c.rb) / 2 for c in capsules], np.float32)[which],
        length=length[which],
        start=np.array([c.a for c in capsules], np.float32)[which],
        direction=(bone / np.maximum(length, 1e-6)[:, None])[which],
        dorsal=dorsal,
        back=np.einsum("ij,ij->i", surface.normals, dorsal),
    )


def _folds(along: Floats, bones: _Bones) -> tuple[Floats, Floats]:
    """Return the darkening of the folds at the joints and the redness of knuckles and finger tips."""
    dark, red = np.zeros(len(along), np.float32), np.zeros(len(along), np.float32)
    finger, place, back = (bones.chain > 0) & (bones.segment > 0), along * bones.length, bones.back
    for end, which in ((place, bones.segment > 1), (bones.length - place, bones.segment < 3)):  # mm from a joint
        palmar = 0.30 * _line(end - 0.6, 0.9) + 0.14 * _line(end - 3.2, 0.7)
        knuckle = 0.16 * (_line(end, 0.8) + _line(end - 2.6, 0.7) + 0.6 * _line(end - 5.0, 0.7))
        shade = palmar * np.clip(-back * 2, 0, 1) + knuckle * np.clip(back * 2 - 0.4, 0, 1)
        dark += (finger & which) * shade
        red += (finger & which) * 0.35 * _line(end, 7.0) * np.clip(back, 0, 1)
    red += 0.5 * ((bones.chain > 0) & (bones.segment == 3)) * np.clip((along - 0.3) / 0.7, 0, 1)
    return dark, red


def _mix(tone: Array, red: Floats, light: Floats, dark: Floats) -> Array:
    pale = tone * 0.75 + 0.25 * np.array([0.80, 0.52, 0.40])  # palms are lighter, most so on dark hands
    colour = tone + (light * 0.7)[:, None] * (pale - tone)
    colour = colour * (1 + red[:, None] * np.array([0.06, -0.20, -0.16]))
    return colour * (1 - np.clip(dark, 0, 0.6)[:, None] * np.array([0.75, 1.0, 1.05]))


def _line(distance: Floats, width: float) -> Floats:
    return np.exp(-((distance / width) ** 2))


def _palm_lines(points: Floats, joints: Array) -> Floats:
    """Return the intensity (0 to 1) of the palm's lines at each point."""
    wrist, index, little, middle = joints[0], joints[5], joints[17], joints[MIDDLE]
    up = middle - wrist
    side = little - index
    size = float(np.linalg.norm(up))
    across = ((points - index) @ side + 0.14 * side @ side) / (1.28 * side @ side)
    along = (points - wrist) @ up / (up @ up)
    total = np.zeros(len(points), np.float32)
    width = 1.28 * float(np.linalg.norm(side))
    places = np.stack([across * width, along * size], axis=1).astype(np.float32)  # (n, 2) mm
    t = np.linspace(0, 1, 9)[:, None]
    for line in _PALM_LINES:
        p = np.array(line) * (width, size)
        curve = (1 - t) ** 3 * p[0] + 3 * t * (1 - t) ** 2 * p[1] + 3 * t**2 * (1 - t) * p[2] + t**3 * p[3]
        total = np.maximum(total, np.exp(-_distance_to_curve(places, curve) / 1.3**2))
    return total


def _distance_to_curve(places: Floats, curve: Array) -> Floats:
    """Return the squared distance of each place (n, 2) to a curve given by points (m, 2) on it."""
    best = np.full(len(places), 1e4, np.float32)
    for start, end in zip(curve[:-1].astype(np.float32), curve[1:].astype(np.float32), strict=True):
        step = end - start
        offset = places - start
        share = np.clip(offset @ step / (step @ step), 0, 1)
        best = np.minimum(best, ((offset - share[:, None] * step) ** 2).sum(axis=1))
    return best


def _nails(points: Floats, bones: _Bones) -> Floats:
    """Return the share of nail (0 to 1) at each point: a rounded square on the backs of the end bones."""
    offset = points - bones.start
    along = np.einsum("ij,ij->i", offset, bones.direction)
    out = np.einsum("ij,ij->i", offset, bones.dorsal)
    aside = np.einsum("ij,ij->i", offset, np.cross(bones.direction, bones.dorsal))
    middle = bones.length - 0.15 * bones.radius
    square = np.abs(aside / (0.78 * bones.radius)) ** 2.6 + np.abs((along - middle) / (1.05 * bones.radius)) ** 2.6
    end = (bones.chain > 0) & (bones.segment == 3) & (out > 0.35 * bones.radius)
    return end * np.clip((1.12 - square) * 4, 0, 1)
