"""Gestures of files are drawn from their joint angles, and leave the other pictures as they are."""

import numpy as np
import pytest

from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.shipped import resource
from handdata.world.gesture_file import drawn_names, gesture_files
from handdata.world.render import check
from handdata.world.skeleton import GESTURES, INDEX, LITTLE, MIDDLE, RING, person_shape, pose_hand
from handdata.world.tasks import Task, draw_task

VULCAN = resource("manifests/gestures/vulcan.toml")


def files(*names, **more):
    return RenderOptions(gesture_file=tuple(map(str, names)), train=1, validation=0, test=0, size=64, **more)


def tips(name):
    """Return the joints of a hand with a gesture of a shipped file, in its own space."""
    rng = np.random.default_rng(0)
    return pose_hand(person_shape(rng), gesture_files(files(name))[name].pose(rng)).joints


def test_the_vulcan_salute_has_its_gap_between_middle_and_ring_finger():
    joints = tips("vulcan")
    gaps = [
        np.linalg.norm(joints[one + 3] - joints[other + 3])
        for one, other in ((INDEX, MIDDLE), (MIDDLE, RING), (RING, LITTLE))
    ]
    assert gaps[1] > 1.5 * max(gaps[0], gaps[2])


def test_i_love_you_extends_index_and_little_finger_only():
    reach = np.linalg.norm(tips("i_love_you"), axis=1)
    straight = [reach[first + 3] > reach[first] + 40 for first in (INDEX, MIDDLE, RING, LITTLE)]  # mm from the wrist
    assert straight == [True, False, False, True]


def test_a_picture_of_a_files_gesture_is_labelled_with_its_name():
    options = files(VULCAN)
    _, record, truth = draw_task(Task("vulcan", "train", 0, "whole"), options)
    assert record["labels"][0] == truth["gesture"] == truth["hands"][0]["label"] == "vulcan"


def test_a_gesture_file_leaves_the_other_pictures_as_they_are():
    task = Task("ok", "train", 0, "whole")
    assert draw_task(task, files(VULCAN, gestures=("ok",)))[0] == draw_task(task, files(gestures=("ok",)))[0]


def test_the_gestures_of_files_are_drawn_alone_unless_others_are_named():
    assert drawn_names(files("vulcan", "i_love_you")) == ("vulcan", "i_love_you")
    assert drawn_names(files("vulcan", gestures=("palm", "vulcan"))) == ("palm", "vulcan")
    assert drawn_names(files()) == GESTURES


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("spread = [-9,", "spread = [-90,", "must be at least -40"),
        ("index = [5, 7, 4]", "index = [5, 7]", "joints.index has 2 angles: give 3"),
        ('thumb = "spread"', 'thumb = "sideways"', "choose from spread, adjacent"),
        ('name = "vulcan"', 'name = "palm"', "one of HaGRID's gestures"),
        ('name = "vulcan"', 'name = "vulcan', "is not valid TOML"),
        ("turn = [0]", "turn = []", "view.turn is empty"),
        ("[joints]", "[joint]", "did you mean 'joints'"),
    ],
)
def test_a_faulty_gesture_file_is_refused_with_its_key(old, new, fault, tmp_path):
    path = tmp_path / "vulcan.toml"
    path.write_text(VULCAN.read_text().replace(old, new))
    with pytest.raises(UserError, match=fault) as error:
        check(files(path))
    assert str(path) in str(error.value)


def test_a_missing_gesture_file_is_refused_with_the_shipped_ones():
    with pytest.raises(UserError, match=r"--gesture-file nowhere does not exist.*i_love_you, vulcan"):
        check(files("nowhere"))
