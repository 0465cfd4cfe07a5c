"""The hand's flesh: tapered capsules around the bones of its skeleton, and around the forearm and its sleeve."""

# mypy: disable-error-code="no-any-return"

from dataclasses import dataclass, replace

import numpy as np

from handdata.world.skeleton import FINGERS, THUMB, Array, Skeleton

PALM, SLEEVE = 0, 9  # groups; 1 to 5 are the fingers' own, 6 a sixth finger's
ARM_CHAIN, SLEEVE_CHAIN = -1, -2


@dataclass(frozen=True)
class Capsule:
    """The flesh of one bone: radius `ra` at `a`, `rb` at `b`, in mm."""

    a: Array
    b: Array
    ra: float
    rb: float
    group: int  # capsules of a group blend into each other, groups do not
    blend: float  # mm
    chain: int  # first joint of the finger it belongs to; 0 palm, -1 arm, -2 sleeve
    segment: int  # 0 to 3 from the palm outwards
    dorsal: Array  # unit vector out of the bone's back


def hand_capsules(hand: Skeleton) -> list[Capsule]:
    """Return the flesh of a hand without the arm."""
    capsules = []
    for chain in hand.fingers:
        number = [THUMB, *FINGERS].index(chain)
        bones = slice(chain, chain + 4)
        grown = finger_capsules(hand.joints[bones], hand.dorsal[bones], hand.radii[number], chain, number + 1)
        capsules += _grown_together(grown, number, hand) if hand.fused and chain in hand.fused else grown
    if hand.extra is not None:
        extra = hand.extra
        capsules += finger_capsules(extra.joints, extra.dorsal, extra.radii, extra.chain, 6)
        if extra.rooted:  # its own part of the palm
            root, knuckle = hand.joints[0], extra.joints[0]
            start = root + 0.45 * (hand.joints[extra.chain] - root)
            capsules.append(Capsule(start, knuckle, 13.0, extra.radii[0] * 1.03, PALM, 5.0, 0, 0, hand.dorsal[0]))
    return capsules + _palm_capsules(hand)


def _grown_together(capsules: list[Capsule], number: int, hand: Skeleton) -> list[Capsule]:
    """Return a finger's flesh so that it blends into its neighbour's: both have one group and reach to the middle."""
    first, second = hand.fused or (0, 0)
    other = second if capsules[0].chain == first else first
    group = [THUMB, *FINGERS].index(first) + 1
    moved = []
    for capsule in capsules:
        if capsule.group == PALM:
            moved.append(capsule)
            continue
        joint = capsule.segment - 1
        shift = [0.22 * (hand.joints[other + end] - hand.joints[capsule.chain + end]) for end in (joint, joint + 1)]
        a, b = capsule.a + shift[0], capsule.b + shift[1]
        moved.append(replace(capsule, a=a, b=b, ra=capsule.ra * 1.06, rb=capsule.rb * 1.06, group=group, blend=9.0))
    return moved


def finger_capsules(joints: Array, dorsal: Array, radii: Array, chain: int, group: int) -> list[Capsule]:
    """Return the flesh of a finger's three bones from its root outwards, and the part that blends into the palm."""
    capsules = []
    for s in range(3):
        ra, rb = radii[s], radii[s + 1]
        capsules.append(Capsule(joints[s], joints[s + 1], ra, rb, group, 2.2, chain, s + 1, dorsal[s + 1]))
    share = 1.0 if chain == THUMB else 0.4
    middle = joints[0] + share * (joints[1] - joints[0])
    edge = radii[0] + share * (radii[1] - radii[0])
    capsules.append(Capsule(joints[0], middle, radii[0], edge, PALM, 5.0, chain, 1, dorsal[1]))
    return capsules


def _palm_capsules(hand: Skeleton) -> list[Capsule]:
    joints, dorsal = hand.joints, hand.dorsal[0]
    palm = -dorsal
    size = float(np.linalg.norm(joints[9] - joints[0])) / 94
    side = joints[17] - joints[5]
    side = side / np.linalg.norm(side)
    up = (joints[9] - joints[0]) / np.linalg.norm(joints[9] - joints[0])
    capsules = []
    starts = (-13, -5, 5, 13)
    for number, (first, x) in enumerate(zip(FINGERS, starts, strict=True)):
        start = joints[0] + side * x * size + up * 6 * size + palm * 1 * size
        knuckle = joints[first] - (joints[first] - start) * 0.04
        capsules.append(Capsule(start, knuckle, 13.5 * size, hand.radii[number + 1, 0] * 1.03, PALM, 5.0, 0, 0, dorsal))

    def flesh(a: tuple[float, float, float], b: tuple[float, float, float], ra: float, rb: float) -> Capsule:
        place = [joints[0] + (side * p[0] + up * p[1] + palm * p[2]) * size for p in (a, b)]
        return Capsule(place[0], place[1], ra * size, rb * size, PALM, 6.0, 0, 0, dorsal)

    capsules.append(flesh((19, 14, 5), (26, 58, 5), 13.0, 11.0))  # ball of the little finger
    capsules.append(flesh((-14, 68, 5), (22, 60, 5), 10.0, 9.5))  # pad below the knuckles
    if THUMB in hand.fingers:
        root, knuckle = joints[1], joints[2]
        capsules.append(
            Capsule(root * 0.6, 0.25 * root + 0.75 * knuckle, 15.0 * size, 13.0 * size, PALM, 7.0, 0, 0, dorsal)
        )
        web = 0.5 * joints[5] + 0.5 * joints[0] * 1.0
        capsules.append(Capsule(0.35 * root + 0.65 * knuckle, web, 8.0 * size, 10.0 * size, PALM, 9.0, 0, 0, dorsal))
    return capsules


def arm_capsules(
    wrist: Array, towards: Array, side: Array, size: float, length: float, cuff: float | None, loose: float
) -> list[Capsule]:
    """Return the forearm and its sleeve, which begins `cuff` mm below the wrist (None: a bare arm).

    `towards` is the unit vector from wrist to elbow, `side` one across the wrist; `length` and `loose`, the room in the
    sleeve, are in mm, `size` is 1 for an average hand.
    """
    capsules = []
    back = np.cross(towards, side)
    for sign in (-1, 1):
        start = wrist + side * sign * 10 * size - towards * 4 * size
        end = wrist + side * sign * 17 * size + towards * length
        capsules.append(Capsule(start, end, 16.5 * size, 27.0 * size, PALM, 8.0, ARM_CHAIN, 0, back))
        if cuff is not None:
            a, b = start + towards * (cuff + 4), end
            t = cuff / length
            ra = (16.5 + 10.5 * t) * size + loose
            capsules.append(Capsule(a, b, ra, ra + 16, SLEEVE, 8.0, SLEEVE_CHAIN, 0, back))
    return capsules
