"""Flaws of anatomy: each is drawn, named and visible, and nothing but the hand changes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.world import render
from handdata.world.flaws import FLAWS, Wrong, flawed_hand
from handdata.world.scene import draw_person, draw_picture
from handdata.world.skeleton import FINGERS, GESTURES, THUMB, gesture_pose, natural_pose, person_shape, pose_hand
from handdata.world.tasks import Task, draw_task, plan

SMALL = RenderOptions(gestures=("palm", "fist"), train=0, validation=0, test=2, size=48, second_hand=0, oddities=False)


def flawed(name, gesture="palm", seed=0):
    """Return a hand and its flawed double."""
    rng = np.random.default_rng(seed)
    shape, pose = person_shape(rng), gesture_pose(gesture, rng)
    return pose_hand(shape, pose), *flawed_hand(shape, pose, Wrong((name,), 1, rng))


def bones(hand, chain):
    return np.linalg.norm(np.diff(hand.joints[chain : chain + 4], axis=0), axis=1)


@pytest.mark.parametrize("name", FLAWS)
def test_an_open_hand_gets_the_flaw_that_is_asked_for(name):
    whole, hand, names = flawed(name)
    assert names == (name,)
    assert (hand.extra is not None) == (name in ("extra-finger", "double-thumb"))
    assert (len(hand.fingers) < 5) == (name == "missing-finger")
    assert (hand.fused is not None) == (name == "fused-fingers")
    lengths = [bones(hand, chain).sum() / bones(whole, chain).sum() for chain in (THUMB, *FINGERS)]
    assert (max(np.abs(np.log(lengths))) > 0.3) == (name == "wrong-length")


def test_backward_and_sideways_bends_are_beyond_what_a_finger_can():
    for seed in range(8):
        for name, axis in (("backward-bend", 2), ("sideways-bend", 0)):
            whole, hand, _ = flawed(name, "stop", seed)
            moved = [chain for chain in FINGERS if not np.allclose(whole.joints[chain + 3], hand.joints[chain + 3])]
            assert len(moved) == 1
            first, second, _ = np.diff(hand.joints[moved[0] : moved[0] + 4], axis=0)
            angle = np.degrees(np.arccos(first @ second / np.linalg.norm(first) / np.linalg.norm(second)))
            assert angle > 30
            step = second / np.linalg.norm(second) - first / np.linalg.norm(first)
            assert np.abs(step).argmax() in ((axis,) if name == "sideways-bend" else (1, 2))
            assert name == "sideways-bend" or step[2] < 0  # away from the palm


def test_flaws_that_a_fist_hides_are_replaced():
    for name in ("wrong-length", "backward-bend", "sideways-bend"):
        assert flawed(name, "fist")[2] == ("extra-finger",)


@pytest.mark.parametrize(("count", "fewest", "most"), [(1, 1, 1), (2, 2, 2), (0, 1, 3)])
def test_the_number_of_flaws_is_the_one_asked_for(count, fewest, most):
    rng = np.random.default_rng(3)
    drawn = [
        flawed_hand(person_shape(rng), gesture_pose("palm", rng), Wrong(tuple(FLAWS), count, rng))[1] for _ in range(40)
    ]
    assert {len(names) for names in drawn} == set(range(fewest, most + 1))
    assert all(len(set(names)) == len(names) for names in drawn)


def test_no_flaw_is_rare():
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for _ in range(20):
        for gesture in GESTURES:
            counts.update(flawed_hand(person_shape(rng), gesture_pose(gesture, rng), Wrong(tuple(FLAWS), 1, rng))[1])
    assert set(counts) == set(FLAWS)
    assert min(counts.values()) > 0.05 * 20 * len(GESTURES)


def test_only_the_hand_changes_and_the_change_is_visible():
    person = draw_person(np.random.default_rng(1))
    right = draw_picture(person, "palm", "no_gesture", 96, np.random.default_rng(2))
    wrong = draw_picture(
        person,
        "palm",
        "no_gesture",
        96,
        np.random.default_rng(2),
        wrong=Wrong(("extra-finger",), 1, np.random.default_rng(3)),
    )
    assert (wrong.caption, wrong.attributes, wrong.hands[1]) == (right.caption, right.attributes, right.hands[1])
    assert wrong.hands[0]["changed"] >= 0.08 and right.hands[0]["changed"] == 0
    assert (wrong.hands[0]["fingers"], right.hands[0]["fingers"]) == (6, 5)
    boxes = np.array([hand["box"] for hand in (right.hands[0], wrong.hands[0])])
    left, top = boxes[:, :2].min(axis=0) * 96 - 8
    bottom = (boxes[:, 1] + boxes[:, 3]).max() * 96 + 8
    right_end = (boxes[:, 0] + boxes[:, 2]).max() * 96 + 8
    different = np.argwhere(np.abs(np.asarray(right.image, int) - np.asarray(wrong.image, int)).max(axis=2) > 40)
    assert len(different) > 20
    assert (different[:, 0] > top).all() and (different[:, 0] < bottom).all()
    assert (different[:, 1] > left).all() and (different[:, 1] < right_end).all()


def test_pairs_hold_the_right_picture_as_it_is_drawn_alone_and_its_double():
    options = replace(SMALL, pairs=True)
    tasks = plan(options)
    assert [task.kind for task in tasks] == ["whole", "wrong"] * 4
    right, wrong = (draw_task(task, options) for task in tasks[:2])
    assert right[0] == draw_task(tasks[0], SMALL)[0] != wrong[0]
    assert wrong[2]["pair"] == right[2]["image_id"] != wrong[2]["image_id"]
    assert "pair" not in right[2]
    assert wrong[2]["hands"][0]["flaws"] and not right[2]["hands"][0]["flaws"]
    assert wrong[2]["user_id"] == right[2]["user_id"]


def test_with_flaws_alone_every_hand_is_wrong_and_keeps_its_name():
    task = Task("palm", "test", 0, "whole")
    plain, wrong = draw_task(task, SMALL)[2], draw_task(task, replace(SMALL, flaws=("missing-finger",)))[2]
    assert wrong["hands"][0]["flaws"] == ["missing-finger"]
    assert wrong["image_id"] == plain["image_id"]


def test_natural_poses_are_no_gesture_and_bend_each_finger_by_itself():
    truth = draw_task(Task("palm", "test", 0, "whole"), replace(SMALL, natural=1.0))[2]
    assert truth["hands"][0]["label"] == "no_gesture"
    rng = np.random.default_rng(0)
    bends = np.array([natural_pose(rng).flex.sum(axis=1) for _ in range(300)])  # (300, 4) degrees
    assert bends.min() > -25 and bends.max() < 250
    assert (bends.std(axis=1) > 20).mean() > 0.4
    assert ((bends < 60).all(axis=1)).mean() > 0.03 and ((bends > 150).all(axis=1)).mean() > 0.03


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flaws": ("extra finger",)}, "unknown flaw 'extra finger': did you mean 'extra-finger'?"),
        ({"flaw_count": 8}, "--flaw-count is 8"),
        ({"natural": 1.5}, "--natural is 1.5: give a share from 0 to 1"),
        ({"malformed": True, "pairs": True}, "exclude each other"),
    ],
)
def test_a_mistake_is_one_sentence(change, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        render.check(replace(SMALL, **change))
