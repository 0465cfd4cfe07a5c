"""The hand's surface: its capsules, joined by a smooth minimum, found by marching along rays.

Camera space, in millimetres: x to the right, y up, z towards the viewer; the camera is at z = distance and looks down
the z axis. The march along a pixel's ray is in depth. Each capsule is evaluated only where it can be visible, so the
cost is that of the pixels that the capsules cover.
"""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handdata.world.flesh import Capsule
from handdata.world.skeleton import Array

Floats = NDArray[np.floating[Any]]  # float32
Box = tuple[int, int, int, int]  # first and end row, first and end column
Slices = tuple[slice, slice]

_MISS = 1e4  # mm: no surface near
_HIT = 0.8  # mm: distance below which a ray has met the surface
_COARSE = 4  # pixels between the rays of the first march
_COARSE_STEPS, _FINE_STEPS, _GRAZING_STEPS = 12, 4, 24
_OPEN = 9.0  # mm: range in which the surroundings shade a point
_SHADOW_REACHES = (7.0, 16.0, 32.0)  # mm towards the light at which occluders are sampled


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. Lengths in mm, the rest in pixels."""

    distance: float
    focal: float
    center: tuple[float, float]  # where the z axis meets the picture: column, row

    def project(self, points: Array) -> Array:
        """Return columns and rows (n, 2) of points (n, 3)."""
        scale = self.focal / (self.distance - points[:, 2])
        return np.stack([self.center[0] + points[:, 0] * scale, self.center[1] - points[:, 1] * scale], axis=1)


@dataclass(frozen=True)
class Surface:
    """The points where rays meet the surface, one row per pixel."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    points: Floats  # (n, 3) mm
    normals: Floats  # (n, 3)
    capsule: NDArray[np.intp]  # index of the nearest capsule
    along: Floats  # 0 to 1 from its a to its b
    open: Floats  # 0 to 1: openness of the surroundings (ambient occlusion)
    lit: Floats  # 0 to 1: share of the light that arrives


def find_surface(capsules: list[Capsule], camera: Camera, size: tuple[int, int], light: Array) -> Surface:
    """March along the rays of a picture of (rows, columns) pixels until they meet the capsules.

    `light` is the unit vector towards the light. Rows and columns must be even.
    """
    box = _even(_screen_box(capsules, camera, size, 2.0))
    field = _Field(capsules, camera, box)
    depth = _fine_depth(field, _coarse_depth(capsules, camera, box))
    points = field.points(depth)
    distance, normals, nearest, along = field.details(points)
    hit = distance < _HIT
    pick = np.nonzero(hit)
    points = np.where(hit, points, np.float32(-_MISS))
    free, lit = _surroundings(capsules, camera, box, points, normals, light)
    return Surface(
        pick[0] + box[0],
        pick[1] + box[2],
        points[:, pick[0], pick[1]].T,
        normals[:, pick[0], pick[1]].T,
        nearest[pick],
        along[pick],
        free[pick[0] // 2, pick[1] // 2],
        lit[pick[0] // 2, pick[1] // 2],
    )


def _coarse_depth(capsules: list[Capsule], camera: Camera, box: Box) -> Floats:
    """Return a depth just before the surface for each pixel of the box, infinite where its ray misses the surface.

    Every `_COARSE`th ray is marched towards swollen capsules; a pixel takes the nearest of the rays around it.
    """
    edge = (box[0] // _COARSE, -(-box[1] // _COARSE), box[2] // _COARSE, -(-box[3] // _COARSE))
    low = _Field([], _smaller(camera, _COARSE), edge)
    rays = low.rays.reshape(3, -1)  # (3, n)
    a, bone, radius, taper = _stacked(capsules)
    swell = 2.5 + 1.5 * _COARSE * camera.distance / camera.focal  # mm: what blending adds, and half a coarse pixel
    near = (
        camera.distance - float((np.maximum(a[:, 2], (a + bone)[:, 2]) + radius + np.maximum(taper, 0)).max()) - swell
    )
    depth = np.full(rays.shape[1], near, np.float32)
    far = camera.distance * 2
    for _ in range(_COARSE_STEPS):
        points = rays * depth + low.eye[:, :, 0]  # (3, n)
        offset = points[None] - a[:, :, None]  # (capsules, 3, n)
        h = np.clip(np.einsum("cxn,cx->cn", offset, bone / (bone**2).sum(axis=1, keepdims=True)), 0, 1)
        offset -= h[:, None] * bone[:, :, None]
        distance = np.sqrt(np.einsum("cxn,cxn->cn", offset, offset)) - radius[:, None] - h * taper[:, None] - swell
        depth = np.minimum(depth + np.maximum(distance.min(axis=0), 0.3), far)
    depth = np.where(depth < far, depth - 1.0, np.inf).reshape(low.shape)
    rows, columns = low.shape
    padded = np.pad(depth, 1, constant_values=np.inf)
    depth = np.minimum.reduce([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)])
    fine = depth.repeat(_COARSE, axis=0).repeat(_COARSE, axis=1)
    top, left = box[0] - edge[0] * _COARSE, box[2] - edge[2] * _COARSE
    return fine[top : top + box[1] - box[0], left : left + box[3] - box[2]].astype(np.float32)


def _fine_depth(field: "_Field", depth: Floats) -> Floats:
    """March every ray that may meet the surface until it does; rays that graze a finger continue alone."""
    far = field.camera.distance - float(min(min(c.a[2] - c.ra, c.b[2] - c.rb) for c in field.capsules))
    rays = field.rays.reshape(3, -1)
    start = depth.ravel()
    alive = np.flatnonzero(np.isfinite(start))
    walked = np.full(start.shape, far * 2, np.float32)
    walked[alive] = start[alive]
    distance = step = np.full(start.shape, _MISS, np.float32)
    for _ in range(_FINE_STEPS):
        at = np.where(np.isfinite(depth), walked.reshape(depth.shape), far)
        new = np.minimum(field.distance(field.points(at), 0.0).ravel(), 80.0)
        step, distance = _secant(new, distance, step), new
        walked += step
    alive = alive[(distance[alive] > _HIT / 2) & (walked[alive] < far)]
    before, pace = distance[alive], step[alive]
    for _ in range(_GRAZING_STEPS):
        if not len(alive):
            break
        gap = _distance_of_list(field.capsules, rays[:, alive] * walked[alive] + field.eye[:, :, 0])
        pace = _secant(gap, before, pace)
        walked[alive] += pace
        left = (np.abs(gap) > _HIT / 4) & (walked[alive] < far)
        alive, before, pace = alive[left], gap[left], pace[left]
    return walked.reshape(depth.shape)


def _secant(distance: Floats, before: Floats, step: Floats) -> Floats:
    """Return the next step along a ray: longer if the last one gained little distance, as on slanted surfaces."""
    stretch = step / np.maximum(before - distance, np.float32(1e-3))
    return distance * np.clip(stretch, 0.95, 1.5)


def _surroundings(
    capsules: list[Capsule], camera: Camera, box: Box, points: Floats, normals: Floats, light: Array
) -> tuple[Floats, Floats]:
    """Return openness and light of the surface, at half the resolution."""
    half = _Field(capsules, _smaller(camera, 2), (box[0] // 2, box[1] // 2, box[2] // 2, box[3] // 2))
    blocks = points.reshape(3, half.shape[0], 2, half.shape[1], 2).transpose(2, 4, 0, 1, 3).reshape(4, 3, *half.shape)
    around = normals.reshape(3, half.shape[0], 2, half.shape[1], 2).transpose(2, 4, 0, 1, 3).reshape(4, 3, *half.shape)
    front = blocks[:, 2].argmax(axis=0)  # the nearest of four pixels represents them
    place = np.take_along_axis(blocks, front[None, None], axis=0)[0]
    normal = np.take_along_axis(around, front[None, None], axis=0)[0]
    free = np.clip(half.distance(place + np.float32(_OPEN) * normal, _OPEN + 2) / _OPEN, 0, 1)
    lit = np.ones_like(free)
    towards = light.astype(np.float32)[:, None, None]
    for reach in _SHADOW_REACHES:
        gap = half.distance(place + np.float32(reach) * towards + normal, reach + 4)
        lit = np.minimum(lit, np.clip(0.15 + gap / (0.35 * reach + 1), 0, 1))
    return free, lit


class _Field:
    """The distance to a set of capsules, for points given one per pixel of a box of the picture."""

    def __init__(self, capsules: list[Capsule], camera: Camera, box: Box) -> None:
        self.capsules, self.camera, self.box = capsules, camera, box
        self.shape = (box[1] - box[0], box[3] - box[2])
        x = (np.arange(box[2], box[3]) + 0.5 - camera.center[0]) / camera.focal
        y = (camera.center[1] - np.arange(box[0], box[1]) - 0.5) / camera.focal
        rays = np.stack([*np.meshgrid(x, y), -np.ones(self.shape)])
        self.rays = rays.astype(np.float32)  # (3, rows, columns), per mm of depth
        self.eye = np.array([0, 0, camera.distance], np.float32)[:, None, None]
        self._places: dict[float, list[tuple[int, Slices]]] = {}

    def points(self, depth: Floats) -> Floats:
        """Return the points (3, rows, columns) at that depth on the pixels' rays."""
        return self.rays * depth + self.eye

    def distance(self, points: Floats, margin: float) -> Floats:
        """Return the distance per pixel; points may be up to `margin` mm off their pixel's ray."""
        total = np.full(self.shape, _MISS, np.float32)
        groups: dict[int, Floats] = {}
        for number, place in self._visible(margin):
            capsule = self.capsules[number]
            distance = _capsule_distance(capsule, points[:, *place])[0]
            field = groups.get(capsule.group)
            if field is None:
                field = groups[capsule.group] = np.full(self.shape, _MISS, np.float32)
            field[place] = _smooth_minimum(field[place], distance, capsule.blend)[0]
        for field in groups.values():
            np.minimum(total, field, out=total)
        return total

    def details(self, points: Floats) -> tuple[Floats, Floats, NDArray[np.intp], Floats]:
        """Return distance, normals (3, rows, columns), index of the nearest capsule and the position along it."""
        groups: dict[int, tuple[Floats, Floats]] = {}
        closest = np.full(self.shape, _MISS, np.float32)
        nearest = np.zeros(self.shape, np.intp)
        along = np.zeros(self.shape, np.float32)
        for number, place in self._visible(0.0):
            capsule = self.capsules[number]
            if capsule.group not in groups:
                groups[capsule.group] = (np.full(self.shape, _MISS, np.float32), np.zeros((3, *self.shape), np.float32))
            field, normals = groups[capsule.group]
            distance, h, away = _capsule_distance(capsule, points[:, *place])
            mine = distance < closest[place]
            closest[place] = np.where(mine, distance, closest[place])
            nearest[place] = np.where(mine, number, nearest[place])
            along[place] = np.where(mine, h, along[place])
            field[place], share = _smooth_minimum(field[place], distance, capsule.blend)
            normals[:, *place] += share * (_unit(away) - normals[:, *place])
        total, normal = np.full(self.shape, _MISS, np.float32), np.zeros((3, *self.shape), np.float32)
        for field, normals in groups.values():
            normal = np.where(field < total, normals, normal)
            np.minimum(total, field, out=total)
        return total, _unit(normal), nearest, along

    def _visible(self, margin: float) -> list[tuple[int, Slices]]:
        """Return the indices of the visible capsules and the pixels that each can cover."""
        if margin not in self._places:
            size = (self.box[1], self.box[3])
            blends = np.array([capsule.blend for capsule in self.capsules])
            boxes = _screen_boxes(self.capsules, self.camera, size, margin + 0.5 * blends)
            boxes = np.maximum(boxes - np.repeat(self.box[::2], 2), 0)
            self._places[margin] = [
                (number, (slice(top, bottom), slice(left, right)))
                for number, (top, bottom, left, right) in enumerate(boxes.tolist())
                if bottom > top and right > left
            ]
        return self._places[margin]


def _distance_of_list(capsules: list[Capsule], points: Floats) -> Floats:
    """Return the distance of each of the points (3, n) to all capsules at once: for few points the calls dominate."""
    a, bone, radius, taper = _stacked(capsules)
    lengths = np.array([max(float(b @ b), 1e-6) for b in bone], np.float32)
    offset = points[:, None] - a.T[:, :, None]  # (3, capsules, n)
    h = np.clip(np.einsum("xcn,cx->cn", offset, bone / lengths[:, None]), 0, 1)
    offset -= h * bone.T[:, :, None]
    distances = np.sqrt(np.einsum("xcn,xcn->cn", offset, offset)) - radius[:, None] - h * taper[:, None]
    groups: dict[int, Floats] = {}
    for capsule, distance in zip(capsules, distances, strict=True):
        field = groups.get(capsule.group)
        groups[capsule.group] = distance if field is None else _smooth_minimum(field, distance, capsule.blend)[0]
    return np.minimum.reduce(list(groups.values()))


def _capsule_distance(capsule: Capsule, points: Floats) -> tuple[Floats, Floats, Floats]:
    """Return distance, position along the bone (0 to 1), and the vector from the bone to the point (3, ...)."""
    axes = (3,) + (1,) * (points.ndim - 1)
    bone = (capsule.b - capsule.a).astype(np.float32)
    offset = points - capsule.a.astype(np.float32).reshape(axes)
    scaled = bone / max(float(bone @ bone), 1e-6)
    h = scaled[0] * offset[0]
    h += scaled[1] * offset[1]
    h += scaled[2] * offset[2]
    np.minimum(np.maximum(h, 0, out=h), 1, out=h)
    offset -= h * bone.reshape(axes)
    distance = np.sqrt(np.einsum("x...,x...->...", offset, offset))
    distance -= np.float32(capsule.ra)
    distance -= h * np.float32(capsule.rb - capsule.ra)
    return distance, h, offset


def _smooth_minimum(a: Floats, b: Floats, blend: float) -> tuple[Floats, Floats]:
    """Return the minimum, rounded over `blend` mm, and the share of b (polynomial; I. Quilez)."""
    gap = a - b
    share = gap * np.float32(0.5 / blend)
    share += np.float32(0.5)
    np.minimum(np.maximum(share, 0, out=share), 1, out=share)
    return a - share * (gap + np.float32(blend) * (1 - share)), share


def _stacked(capsules: list[Capsule]) -> tuple[Floats, Floats, Floats, Floats]:
    """Return starts (n, 3), bones (n, 3), radii at the start and what the end adds to them."""
    a = np.array([c.a for c in capsules], np.float32)
    bone = np.array([c.b - c.a for c in capsules], np.float32)
    return (
        a,
        bone,
        np.array([c.ra for c in capsules], np.float32),
        np.array([c.rb - c.ra for c in capsules], np.float32),
    )


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.sqrt(np.einsum("x...,x...->...", vectors, vectors)), np.float32(1e-6))


def _smaller(camera: Camera, factor: int) -> Camera:
    return Camera(camera.distance, camera.focal / factor, (camera.center[0] / factor, camera.center[1] / factor))


def _even(box: Box) -> Box:
    return (box[0] // 2 * 2, -(-box[1] // 2) * 2, box[2] // 2 * 2, -(-box[3] // 2) * 2)


def _screen_boxes(
    capsules: list[Capsule], camera: Camera, size: tuple[int, int], margin: float | Array
) -> NDArray[np.int64]:
    """Return per capsule (n, 4) first and end row, first and end column that it and a margin in mm can cover."""
    centers = np.array([[c.a, c.b] for c in capsules])  # (n, 2, 3)
    radii = np.array([[c.ra, c.rb] for c in capsules]) + np.reshape(margin, (-1, 1))
    nearest = np.maximum(camera.distance - centers[..., 2] - radii, 30.0)
    places = camera.project(centers.reshape(-1, 3)).reshape(-1, 2, 2)
    reach = (radii * camera.focal / nearest)[..., None]
    low = np.clip(np.floor((places - reach).min(axis=1)).astype(int), 0, size[::-1])
    high = np.clip(np.ceil((places + reach).max(axis=1)).astype(int) + 1, 0, size[::-1])
    return np.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], axis=1)


def _screen_box(capsules: list[Capsule], camera: Camera, size: tuple[int, int], margin: float) -> Box:
    boxes = _screen_boxes(capsules, camera, size, margin)
    seen = boxes[(boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])]
    assert len(seen), "no part of the hand is in the picture"
    top, _, left, _ = seen.min(axis=0).tolist()
    _, bottom, _, right = seen.max(axis=0).tolist()
    return (top, bottom, left, right)
