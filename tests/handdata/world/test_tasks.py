"""The tasks of the mini world: which pictures exist, and the record of each."""

from dataclasses import replace

import numpy as np
from PIL import Image

from handdata.recipe import RenderOptions
from handdata.world.scene import Picture
from handdata.world.tasks import Task, draw_task, plan, record

SMALL = RenderOptions(gestures=("call", "palm"), train=2, validation=1, test=0, size=32, second_hand=0.5)


def test_a_picture_does_not_depend_on_the_counts_or_the_other_gestures():
    task = Task("palm", "train", 2, "whole")
    alone = replace(SMALL, gestures=("palm",), train=40)
    assert draw_task(task, SMALL)[0] == draw_task(task, alone)[0]


def test_without_oddities_every_record_has_its_picture():
    assert {task.kind for task in plan(SMALL)} == {"whole", "absent", "idle"}
    assert {task.kind for task in plan(replace(SMALL, oddities=False))} == {"whole"}


def test_gaps_and_nulls_occur_and_can_be_left_out():
    hand = {"label": "stop", "joints_2d": [[0.5, 0.5]] * 21, "box": [0.2, 0.2, 0.5, 0.5]}
    idle = {**hand, "label": "no_gesture"}
    picture = Picture(Image.new("RGB", (1, 1)), [hand, idle], {}, "")
    rng = np.random.default_rng(0)
    rows = [record(picture, "0" * 32, rng, oddities=True) for _ in range(200)]
    lengths = {len(row["hand_landmarks"][0]) for row in rows}
    assert lengths == {0, 20, 21}
    assert any("united_bbox" not in row for row in rows)
    variants = [row["united_bbox"] for row in rows if "united_bbox" in row]
    assert all(variant in variants for variant in (None, [None], []))
    plain = [record(picture, "0" * 32, rng, oddities=False) for _ in range(200)]
    assert {(len(row["hand_landmarks"][0]), row["united_bbox"]) for row in plain} == {(21, None)}
