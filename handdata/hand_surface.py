"""The hand's surface: tapered capsules on the skeleton, joined by a smooth minimum, found by marching along rays.

Camera space, in millimetres: x to the right, y up, z towards the viewer; the camera stands at z = distance and looks
down the z axis. A pixel's ray is walked in depth. Each capsule is looked at only where it can be seen, so the cost is
that of the pixels each capsule covers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handdata.skeleton import FINGERS, THUMB, Array, Skeleton

Floats = NDArray[np.float32]

PALM, SLEEVE = 0, 9  # groups; 1 to 5 are the fingers' own, 6 a sixth finger's
_STEPS = 16
_MISS = 1e4


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. Lengths in mm, the rest in pixels."""

    distance: float
    focal: float
    centre: tuple[float, float]  # where the z axis meets the picture: column, row

    def project(self, points: Array) -> Array:
        """Return columns and rows (n, 2) of points (n, 3)."""
        scale = self.focal / (self.distance - points[:, 2])
        return np.stack([self.centre[0] + points[:, 0] * scale, self.centre[1] - points[:, 1] * scale], axis=1)


@dataclass(frozen=True)
class Capsule:
    """One bone's flesh: radius `ra` at `a`, `rb` at `b`."""

    a: Array
    b: Array
    ra: float
    rb: float
    group: int  # capsules of a group melt into each other, groups do not
    blend: float  # mm
    chain: int  # first joint of the finger it belongs to; 0 palm, -1 arm, -2 sleeve
    segment: int  # 0 to 3 from the palm outwards
    dorsal: Array  # unit vector out of the bone's back


@dataclass(frozen=True)
class Surface:
    """What the rays hit, one row per pixel that is hit."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    points: Floats  # (n, 3) mm
    normals: Floats  # (n, 3)
    capsule: NDArray[np.intp]  # number of the nearest capsule
    along: Floats  # 0 to 1 from its a to its b
    open: Floats  # 0 to 1: how free the surroundings are (ambient occlusion)
    lit: Floats  # 0 to 1: how much of the light arrives


def hand_capsules(hand: Skeleton) -> list[Capsule]:
    """Return the flesh of a hand without the arm."""
    found = []
    for chain in hand.fingers:
        number = [THUMB, *FINGERS].index(chain)
        found += finger_capsules(
            hand.joints[chain : chain + 4], hand.dorsal[chain : chain + 4], hand.radii[number], chain, number + 1
        )
    if hand.extra is not None:
        found += finger_capsules(
            hand.extra, np.tile(hand.dorsal[FINGERS[-1] + 1], (4, 1)), hand.radii[4], FINGERS[-1], 6
        )
    return found + _palm_capsules(hand)


def finger_capsules(joints: Array, dorsal: Array, radii: Array, chain: int, group: int) -> list[Capsule]:
    """Return a finger's three phalanges (the thumb's are its metacarpal and two), and the part that melts into the palm."""
    found = []
    for s in range(3):
        ra, rb = radii[s], radii[s + 1]
        found.append(Capsule(joints[s], joints[s + 1], ra, rb, group, 3.0, chain, s + 1, dorsal[s + 1]))
    share = 1.0 if chain == THUMB else 0.4
    middle = joints[0] + share * (joints[1] - joints[0])
    edge = radii[0] + share * (radii[1] - radii[0])
    found.append(Capsule(joints[0], middle, radii[0], edge, PALM, 5.0, chain, 1, dorsal[1]))
    return found


def _palm_capsules(hand: Skeleton) -> list[Capsule]:
    joints, dorsal = hand.joints, hand.dorsal[0]
    palm = -dorsal
    size = np.linalg.norm(joints[9] - joints[0]) / 94
    side = joints[17] - joints[5]
    side = side / np.linalg.norm(side)
    up = (joints[9] - joints[0]) / np.linalg.norm(joints[9] - joints[0])
    found = []
    starts = (-13, -5, 5, 13)
    for number, (first, x) in enumerate(zip(FINGERS, starts, strict=True)):
        start = joints[0] + side * x * size + up * 6 * size + palm * 1 * size
        knuckle = joints[first] - (joints[first] - start) * 0.04
        found.append(Capsule(start, knuckle, 13.5 * size, hand.radii[number + 1, 0] * 1.03, PALM, 5.0, 0, 0, dorsal))

    def flesh(a: tuple[float, float, float], b: tuple[float, float, float], ra: float, rb: float) -> Capsule:
        place = [joints[0] + (side * p[0] + up * p[1] + palm * p[2]) * size for p in (a, b)]
        return Capsule(place[0], place[1], ra * size, rb * size, PALM, 6.0, 0, 0, dorsal)

    found.append(flesh((19, 14, 5), (26, 58, 5), 13.0, 11.0))  # ball of the little finger
    found.append(flesh((-14, 68, 5), (22, 60, 5), 10.0, 9.5))  # pad below the knuckles
    if THUMB in hand.fingers:
        root, knuckle = joints[1], joints[2]
        found.append(
            Capsule(root * 0.6, 0.25 * root + 0.75 * knuckle, 15.0 * size, 13.0 * size, PALM, 7.0, 0, 0, dorsal)
        )
        web = 0.5 * joints[5] + 0.5 * joints[0] * 1.0
        found.append(Capsule(0.35 * root + 0.65 * knuckle, web, 8.0 * size, 10.0 * size, PALM, 9.0, 0, 0, dorsal))
    return found


def arm_capsules(
    wrist: Array, towards: Array, side: Array, size: float, cuff: float | None, loose: float
) -> list[Capsule]:
    """Return the forearm, and its sleeve from `cuff` mm below the wrist on (None: a bare arm).

    `towards` is the unit vector from wrist to elbow, `side` one across the wrist.
    """
    found = []
    back = np.cross(towards, side)
    for sign in (-1, 1):
        start = wrist + side * sign * 10 * size - towards * 4 * size
        end = wrist + side * sign * 17 * size + towards * 260
        found.append(Capsule(start, end, 16.5 * size, 27.0 * size, PALM, 8.0, -1, 0, back))
        if cuff is not None:
            a, b = start + towards * (cuff + 4), end
            t = cuff / 260
            ra = (16.5 + 10.5 * t) * size + loose
            found.append(Capsule(a, b, ra, ra + 16, SLEEVE, 8.0, -2, 0, back))
    return found


def find_surface(capsules: list[Capsule], camera: Camera, size: tuple[int, int], light: Array) -> Surface:
    """March along the rays of a picture of (rows, columns) pixels until they meet the capsules.

    `light` is the unit vector towards the light.
    """
    box = _screen_box(capsules, camera, size)
    field = _Field(capsules, camera, box)
    rays = field.rays()
    near = camera.distance - max(float(np.max([c.a[2] + c.ra, c.b[2] + c.rb])) for c in capsules)
    depth = np.full(rays[0].shape, near, np.float32)
    pace = 0.92 / np.sqrt(1 + rays[0] ** 2 + rays[1] ** 2)
    for _ in range(_STEPS):
        distance = field.distance(_points(rays, depth, camera), 0.0)
        depth += np.minimum(distance, 60.0) * pace
    points = _points(rays, depth, camera)
    distance, normals, nearest, along = field.details(points)
    hit = (distance < 0.8) & (depth < camera.distance * 3)
    rows, columns = np.nonzero(hit)
    above = [p + 9 * n for p, n in zip(points, normals, strict=True)]
    free = np.clip(field.distance(above, 12.0) / 9, 0, 1)
    lit = np.ones_like(free)
    for reach in (7.0, 16.0, 32.0):
        towards = [p + np.float32(reach * l) + 1.0 * n for p, l, n in zip(points, light, normals, strict=True)]
        lit = np.minimum(lit, np.clip(0.15 + field.distance(towards, reach + 4) / (0.35 * reach + 1), 0, 1))
    pick = (rows, columns)
    return Surface(
        rows + box[0],
        columns + box[2],
        np.stack([p[pick] for p in points], axis=1),
        np.stack([n[pick] for n in normals], axis=1),
        nearest[pick],
        along[pick],
        free[pick],
        lit[pick],
    )


Planes = list[Floats]


def _points(rays: tuple[Floats, Floats], depth: Floats, camera: Camera) -> Planes:
    return [rays[0] * depth, rays[1] * depth, np.float32(camera.distance) - depth]


class _Field:
    """The distance to a set of capsules, for points given one per pixel of a box of the picture."""

    def __init__(self, capsules: list[Capsule], camera: Camera, box: tuple[int, int, int, int]) -> None:
        self.capsules, self.camera, self.box = capsules, camera, box
        self.shape = (box[1] - box[0], box[3] - box[2])
        self._boxes: dict[float, list[tuple[slice, slice] | None]] = {}

    def rays(self) -> tuple[Floats, Floats]:
        rows = np.arange(self.box[0], self.box[1], dtype=np.float32) + 0.5
        columns = np.arange(self.box[2], self.box[3], dtype=np.float32) + 0.5
        x = (columns - self.camera.centre[0]) / self.camera.focal
        y = -(rows - self.camera.centre[1]) / self.camera.focal
        across, down = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
        return across, down

    def distance(self, points: Planes, margin: float) -> Floats:
        """Return the distance per pixel; points may lie up to `margin` mm off their pixel's ray."""
        groups: dict[int, Floats] = {}
        for capsule, place in zip(self.capsules, self._slices(margin), strict=True):
            if place is None:
                continue
            field = groups.setdefault(capsule.group, np.full(self.shape, _MISS, np.float32))
            distance = _capsule_distance(capsule, [p[place] for p in points])[0]
            field[place] = _smooth_minimum(field[place], distance, capsule.blend)[0]
        return np.minimum.reduce(list(groups.values()))

    def details(self, points: Planes) -> tuple[Floats, Planes, NDArray[np.intp], Floats]:
        """Return distance, normals, number of the nearest capsule and the place along it."""
        groups: dict[int, tuple[Floats, Planes]] = {}
        closest = np.full(self.shape, _MISS, np.float32)
        nearest = np.zeros(self.shape, np.intp)
        along = np.zeros(self.shape, np.float32)
        for number, (capsule, place) in enumerate(zip(self.capsules, self._slices(0.0), strict=True)):
            if place is None:
                continue
            if capsule.group not in groups:
                blank = [np.zeros(self.shape, np.float32) for _ in range(3)]
                groups[capsule.group] = (np.full(self.shape, _MISS, np.float32), blank)
            field, normals = groups[capsule.group]
            distance, h, away = _capsule_distance(capsule, [p[place] for p in points])
            mine = distance < closest[place]
            closest[place] = np.where(mine, distance, closest[place])
            nearest[place] = np.where(mine, number, nearest[place])
            along[place] = np.where(mine, h, along[place])
            length = np.maximum(np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2), 1e-6)
            field[place], weight = _smooth_minimum(field[place], distance, capsule.blend)
            for axis in range(3):
                normals[axis][place] += weight * (away[axis] / length - normals[axis][place])
        best, normal = None, None
        for field, normals in groups.values():
            if best is None or normal is None:
                best, normal = field, normals
            else:
                mine = field < best
                best = np.minimum(best, field)
                normal = [np.where(mine, new, old) for new, old in zip(normals, normal, strict=True)]
        assert best is not None and normal is not None
        length = np.maximum(np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2), 1e-6)
        return best, [n / length for n in normal], nearest, along

    def _slices(self, margin: float) -> list[tuple[slice, slice] | None]:
        if margin not in self._boxes:
            self._boxes[margin] = [self._slice(capsule, margin) for capsule in self.capsules]
        return self._boxes[margin]

    def _slice(self, capsule: Capsule, margin: float) -> tuple[slice, slice] | None:
        size = (self.box[1], self.box[3])
        top, bottom, left, right = _screen_box([capsule], self.camera, size, margin + 0.5 * capsule.blend)
        top, left = max(top, self.box[0]) - self.box[0], max(left, self.box[2]) - self.box[2]
        bottom, right = bottom - self.box[0], right - self.box[2]
        return (slice(top, bottom), slice(left, right)) if bottom > top and right > left else None


def _capsule_distance(capsule: Capsule, points: Planes) -> tuple[Floats, Floats, Planes]:
    """Return distance, place along the bone (0 to 1), and the vector from the bone to the point."""
    ax, ay, az = (np.float32(v) for v in capsule.a)
    bx, by, bz = (np.float32(v) for v in capsule.b - capsule.a)
    px, py, pz = points[0] - ax, points[1] - ay, points[2] - az
    square = max(float(bx * bx + by * by + bz * bz), 1e-6)
    h = np.clip((px * bx + py * by + pz * bz) * np.float32(1 / square), 0, 1)
    px -= h * bx
    py -= h * by
    pz -= h * bz
    distance = np.sqrt(px * px + py * py + pz * pz) - (np.float32(capsule.ra) + h * np.float32(capsule.rb - capsule.ra))
    return distance, h, [px, py, pz]


def _smooth_minimum(a: Floats, b: Floats, blend: float) -> tuple[Floats, Floats]:
    """Return the minimum, rounded over `blend` mm, and the share of b (polynomial; I. Quilez)."""
    share = np.clip(0.5 + (a - b) * np.float32(0.5 / blend), 0, 1)
    return a + share * (b - a) - np.float32(blend) * share * (1 - share), share


def _screen_box(
    capsules: list[Capsule], camera: Camera, size: tuple[int, int], margin: float = 1.0
) -> tuple[int, int, int, int]:
    """Return first and end row, first and end column of the pixels that capsules and a margin in mm can cover."""
    centres = np.concatenate([[c.a, c.b] for c in capsules])
    radii = np.concatenate([[c.ra, c.rb] for c in capsules]) + margin
    nearest = np.maximum(camera.distance - centres[:, 2] - radii, 30.0)
    places, reach = camera.project(centres), radii * camera.focal / nearest
    low = np.floor((places - reach[:, None]).min(axis=0)).astype(int)
    high = np.ceil((places + reach[:, None]).max(axis=0)).astype(int) + 1
    return (
        int(np.clip(low[1], 0, size[0])),
        int(np.clip(high[1], 0, size[0])),
        int(np.clip(low[0], 0, size[1])),
        int(np.clip(high[0], 0, size[1])),
    )
