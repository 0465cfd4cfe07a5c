"""Bones keep their lengths, hands are mirror images, gestures have the fingers up that they should."""

import numpy as np
import pytest

from handdata.world import skeleton
from handdata.world.skeleton import FINGERS, GESTURES, THUMB, gesture_pose, malformed_hand, person_shape, pose_hand

UP = {  # index, middle, ring, little
    "call": "...|",
    "fist": "....",
    "four": "||||",
    "like": "....",
    "mute": "|...",
    "ok": ".|||",
    "palm": "||||",
    "peace": "||..",
    "rock": "|..|",
    "three": "|||.",
}


def posed(gesture, seed=0):
    rng = np.random.default_rng(seed)
    shape = person_shape(rng)
    return shape, pose_hand(shape, gesture_pose(gesture, rng))


@pytest.mark.parametrize("gesture", GESTURES)
def test_every_bone_keeps_its_length_whatever_the_pose(gesture):
    shape, hand = posed(gesture)
    for number, chain in enumerate((THUMB, *FINGERS)):
        bones = np.linalg.norm(np.diff(hand.joints[chain : chain + 4], axis=0), axis=1)
        np.testing.assert_allclose(bones, shape.lengths[number] * shape.scale, rtol=1e-6)


@pytest.mark.parametrize("gesture", UP)
def test_a_finger_that_is_up_ends_above_its_middle_joint_and_a_curled_one_below(gesture):
    for seed in range(5):
        _, hand = posed(gesture, seed)
        for mark, first in zip(UP[gesture], FINGERS, strict=True):
            rise = hand.joints[first + 3, 1] - hand.joints[first + 1, 1]
            assert (rise > 15) == (mark == "|"), (gesture, seed, first, rise)


def test_the_ok_gesture_closes_its_ring():
    for seed in range(10):
        _, hand = posed("ok", seed)
        gap = np.linalg.norm(hand.joints[THUMB + 3] - hand.joints[FINGERS[0] + 3])
        assert gap < 1.3 * (hand.radii[0, 3] + hand.radii[1, 3])


def test_dorsal_directions_are_perpendicular_to_their_bones():
    for gesture in GESTURES:
        _, hand = posed(gesture)
        for chain in (THUMB, *FINGERS):
            bones = np.diff(hand.joints[chain : chain + 4], axis=0)
            assert np.abs(np.einsum("ij,ij->i", bones, hand.dorsal[chain + 1 : chain + 4])).max() < 1e-6


def test_open_fingers_show_the_viewer_their_palm_side():
    _, hand = posed("palm")
    assert (hand.dorsal[[8, 12, 16, 20], 2] < -0.8).all()


def test_every_flaw_occurs_and_is_named():
    rng = np.random.default_rng(0)
    shape = person_shape(rng)
    seen = set()
    for _ in range(60):
        hand, flaws = malformed_hand(shape, gesture_pose("palm", rng), rng)
        seen |= set(flaws)
        assert (len(hand.fingers) < 5) == ("missing finger" in flaws)
        assert (hand.extra is not None) == ("extra finger" in flaws)
    assert seen == set(skeleton.FLAWS)
