"""Wrong hands as image models draw them: flaws of anatomy that are chosen by name, each visible in its pose.

Flaws are wrong anatomy only. A finger up that the gesture wants down is not among them, except in
`skeleton.malformed_hand`, which draws the mini models' training pictures.
"""

# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from handdata.world.skeleton import FINGERS, THUMB, Array, Extra, Pose, Shape, Skeleton, finger_chain, pose_hand

_STRAIGHT = 60.0  # degrees: a finger whose joints bend less than this together is extended
_MOST = 3  # flaws of a hand if their number is free
# These need an extended finger, and a bend can point at the viewer: tried first, they come out as often as the others.
_RARE = {"wrong-length": 4.0, "backward-bend": 6.0, "sideways-bend": 2.0}


@dataclass(frozen=True)
class Wrong:
    """Which flaws a hand may get, how many (0: one to three), and the random generator that chooses them.

    The generator is not the picture's own: apart from its flaws, the hand and its picture stay as they are.
    """

    names: tuple[str, ...]
    count: int
    rng: np.random.Generator


def flawed_hand(shape: Shape, pose: Pose, wrong: Wrong) -> tuple[Skeleton, tuple[str, ...]]:
    """Return a posed hand with flaws, and the names of the flaws, each of another finger.

    A flaw that the pose hides, such as the length of a curled finger, is not chosen; where all the allowed ones are
    hidden, the hand gets `extra-finger`, which no pose hides.
    """
    rng, draft = wrong.rng, _Draft(shape, pose)
    wanted = wrong.count or int(rng.integers(1, _MOST + 1))
    chosen: list[str] = []
    weights = np.array([_RARE.get(name, 1.0) for name in wrong.names])
    for name in rng.choice(wrong.names, len(wrong.names), replace=False, p=weights / weights.sum()).tolist():
        if len(chosen) < wanted and FLAWS[name](draft, rng):
            chosen.append(name)
    if not chosen:
        _extra_finger(draft, rng)
        chosen.append("extra-finger")
    return draft.hand(), tuple(chosen)


class _Draft:
    """A hand that collects flaws: what differs from the shape and the pose, and which fingers have a flaw already."""

    def __init__(self, shape: Shape, pose: Pose) -> None:
        self.shape, self.pose = shape, pose
        self.flex, self.spread = pose.flex.copy(), pose.spread.copy()
        self.lengths, self.radii, self.knuckles = shape.lengths.copy(), shape.radii.copy(), shape.knuckles.copy()
        self.sideways = np.zeros(4)  # degrees at the middle joint
        self.missing: set[int] = set()  # 0 thumb, 1 to 4 the fingers
        self.fused: tuple[int, int] | None = None  # two neighbours of 1 to 4
        self.added: Callable[[Skeleton], Extra] | None = None
        self.flawed: set[int] = set()

    def free(self, extended: bool = False) -> list[int]:
        """Return the fingers 1 to 4 without a flaw; with `extended` only straight ones that no thumb has to touch."""
        busy = {self.pose.reach[0] + 1} if self.pose.reach else set()
        fingers = [number for number in range(1, 5) if number not in self.flawed]
        if extended:
            straight = np.abs(self.flex).sum(axis=1) < _STRAIGHT
            fingers = [number for number in fingers if straight[number - 1] and number not in busy]
        return fingers

    def take_extended(self, rng: np.random.Generator) -> int | None:
        """Choose an extended finger for a flaw, None without one."""
        choices = self.free(extended=True)
        if not choices:
            return None
        finger = int(rng.choice(choices))
        self.flawed.add(finger)
        return finger

    def hand(self) -> Skeleton:
        """Return the posed hand."""
        shape = replace(self.shape, lengths=self.lengths, radii=self.radii, knuckles=self.knuckles)
        hand = pose_hand(shape, replace(self.pose, flex=self.flex, spread=self.spread))
        joints, dorsal = hand.joints.copy(), hand.dorsal.copy()
        for finger in np.flatnonzero(self.sideways):
            first = FINGERS[finger]
            turn = _about(dorsal[first + 1], self.sideways[finger])
            joints[first + 2 : first + 4] = (
                joints[first + 1] + (joints[first + 2 : first + 4] - joints[first + 1]) @ turn.T
            )
            dorsal[first + 2 : first + 4] = dorsal[first + 2 : first + 4] @ turn.T
        chains = tuple(chain for number, chain in enumerate(hand.fingers) if number not in self.missing)
        hand = replace(hand, joints=joints, dorsal=dorsal, fingers=chains)
        fused = (FINGERS[self.fused[0] - 1], FINGERS[self.fused[1] - 1]) if self.fused else None
        return replace(hand, fused=fused, extra=self.added(hand) if self.added else None)


def _extra_finger(draft: _Draft, rng: np.random.Generator) -> bool:
    """Add a sixth finger next to the little finger, or between two fingers, which move apart."""
    if draft.added:
        return False
    places = [number for number in (1, 2, 3, 4) if number not in draft.flawed and number not in draft.missing]
    if not places:
        return False
    after = int(rng.choice(places))  # the finger that it copies
    draft.flawed.add(after)
    scale, bend = rng.uniform(0.85, 1.1), rng.normal(0, 5, 3)
    across = draft.knuckles[3] - draft.knuckles[0]
    step = across / 3
    if after < 4:
        draft.knuckles[after:] += 0.75 * step
        draft.knuckles[:] -= 0.35 * step
        draft.radii[1:] *= 0.93
        draft.spread[after:] += 5
        draft.spread[:after] -= 4
    knuckle = draft.knuckles[after - 1] + 0.85 * step - np.array([0, 8.0 if after == 4 else 2.0, 0])
    angle = draft.spread[after - 1] + (4 if after < 4 else rng.uniform(7, 12))
    flex = draft.flex[after - 1] + bend

    def build(hand: Skeleton) -> Extra:
        size = draft.shape.scale
        joints, backs = finger_chain(knuckle, draft.lengths[after] * scale, flex, angle, 0.0)
        return Extra(joints * size, backs, hand.radii[after], FINGERS[after - 1], rooted=True)

    draft.added = build
    return True


def _missing_finger(draft: _Draft, rng: np.random.Generator) -> bool:
    """Leave one finger out; in half of the hands the others close the gap."""
    extended = draft.free(extended=True)
    choices = [number for number in draft.free() if number not in extended]
    if len(extended) > 2:  # with fewer, the hand would look like that of another gesture
        choices += extended
    if draft.pose.reach:  # the finger that the thumb touches
        choices = [number for number in choices if number != draft.pose.reach[0] + 1]
    elif len(extended) == 4 and 0 not in draft.flawed:  # else a thumb could be hidden
        choices.append(0)
    if draft.missing or not choices:
        return False
    gone = int(rng.choice(choices))
    draft.missing.add(gone)
    draft.flawed.add(gone)
    if gone and rng.random() < 0.5:
        step = (draft.knuckles[3] - draft.knuckles[0]) / 3
        draft.knuckles[gone:] -= 0.55 * step
        draft.knuckles[: gone - 1] += 0.45 * step
    return True


def _fused_fingers(draft: _Draft, rng: np.random.Generator) -> bool:
    """Join two neighbouring fingers that are bent alike into one of double width."""
    free = draft.free()
    alike = np.abs(np.diff(draft.flex.sum(axis=1))) < 40
    pairs = [(a, a + 1) for a in (1, 2, 3) if a in free and a + 1 in free and alike[a - 1]]
    if draft.fused or not pairs:
        return False
    first, second = draft.fused = pairs[int(rng.integers(len(pairs)))]
    middle = draft.spread[[first - 1, second - 1]].mean()
    draft.spread[first - 1], draft.spread[second - 1] = middle + 1.5, middle - 1.5
    draft.flex[second - 1] = draft.flex[first - 1]
    draft.flawed |= {first, second}
    return True


def _wrong_length(draft: _Draft, rng: np.random.Generator) -> bool:
    """Make an extended finger much too short or too long."""
    finger = draft.take_extended(rng)
    if finger is None:
        return False
    draft.lengths[finger] *= rng.uniform(0.45, 0.6) if rng.random() < 0.5 else rng.uniform(1.4, 1.6)
    return True


def _backward_bend(draft: _Draft, rng: np.random.Generator) -> bool:
    """Bend an extended finger backwards at its middle joint, which no finger can."""
    finger = draft.take_extended(rng)
    if finger is None:
        return False
    draft.flex[finger - 1] = (rng.uniform(-5, 25), rng.uniform(-85, -55), rng.uniform(-30, -5))
    return True


def _sideways_bend(draft: _Draft, rng: np.random.Generator) -> bool:
    """Bend an extended finger sideways at its middle joint, which no finger can."""
    finger = draft.take_extended(rng)
    if finger is None:
        return False
    draft.sideways[finger - 1] = rng.choice([-1, 1]) * rng.uniform(35, 60)
    return True


def _double_thumb(draft: _Draft, rng: np.random.Generator) -> bool:
    """Add a second thumb: from the same root at another angle, or at the other side of the palm."""
    if draft.added or draft.flawed & {0}:
        return False
    draft.flawed.add(0)
    mirrored, angle = rng.random() < 0.35, rng.uniform(32, 48) * rng.choice([-1, 1])

    def build(hand: Skeleton) -> Extra:
        joints, backs = hand.joints[THUMB : THUMB + 4], hand.dorsal[THUMB : THUMB + 4]
        if mirrored:
            flip = np.array([-1.0, 1, 1])
            return Extra(joints * flip + np.array([6.0, 0, 0]), backs * flip, hand.radii[0], THUMB)
        turn = _about(np.array([0.0, 0.0, 1.0]), angle)
        return Extra(joints[0] + (joints - joints[0]) @ turn.T, backs @ turn.T, hand.radii[0], THUMB)

    draft.added = build
    return True


FLAWS: dict[str, Callable[[_Draft, np.random.Generator], bool]] = {
    "extra-finger": _extra_finger,
    "missing-finger": _missing_finger,
    "fused-fingers": _fused_fingers,
    "wrong-length": _wrong_length,
    "backward-bend": _backward_bend,
    "sideways-bend": _sideways_bend,
    "double-thumb": _double_thumb,
}


def _about(axis: Array, angle: float) -> Array:
    """Return the matrix that turns by an angle (degrees) about a unit vector (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    radians = np.radians(angle)
    return np.eye(3) + np.sin(radians) * cross + (1 - np.cos(radians)) * cross @ cross
