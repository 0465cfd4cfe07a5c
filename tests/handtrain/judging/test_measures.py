import numpy as np
import pytest

from handtrain.evaluation.hands import Hand
from handtrain.judging.measures import MEASURES, chosen, difference, summary
from handtrain.judging.rows import JudgedHand, JudgedImage


def image(name, *hands, **fields):
    """An image with hands, given as (score, p_wrong, gesture)."""
    found = [JudgedHand(Hand(np.zeros((21, 3)), False, score, 10, 10), gesture, p) for score, p, gesture in hands]
    return JudgedImage(0, name, hands=found, **fields)


FOLDER = [
    image("a", (0.9, 0.2, "palm"), (0.7, 0.6, "none")),
    image("b", (0.8, 0.1, "palm")),
    image("c", black=True),
    image("d", fault="not an image"),
]


def test_every_measure_is_the_mean_that_its_name_states():
    entry = summary(FOLDER, chosen(True))
    values = {name: row["value"] for name, row in entry["measures"].items()}
    assert values == pytest.approx(
        {
            "p_wrong per image": (0.6 + 0.1 + 1) / 3,
            "p_wrong per hand": 0.3,
            "hand-found rate": 2 / 3,
            "hands per image": 1.0,
            "known gestures": 2 / 3,
            "HAND-CONF": 0.8,
        }
    )
    assert {name: entry[name] for name in ("images", "hands", "without_hand", "black", "one_colour")} == {
        "images": 3, "hands": 3, "without_hand": 1, "black": 1, "one_colour": 0,
    }  # fmt: skip
    assert entry["unreadable"] == {"d": "not an image"} and entry["gestures"] == {"palm": 2, "none": 1}


def test_without_anatomy_its_measures_are_absent_and_not_zero():
    assert [name for name in summary(FOLDER, chosen(False))["measures"] if "p_wrong" in name] == []


def test_no_hands_and_one_image_have_no_interval_and_no_made_up_value():
    entry = summary([image("a"), image("b")], chosen(True))["measures"]
    assert entry["HAND-CONF"] == {"value": None, "low": None, "high": None, "n": 0}
    assert entry["p_wrong per image"]["value"] == 1
    alone = summary([image("a", (0.9, 0.2, "palm"))], chosen(True))["measures"]
    assert all(row["low"] is None for row in alone.values()) and alone["p_wrong per hand"]["value"] == 0.2
    nothing = summary([image("d", fault="x")], chosen(True))
    assert all(row["value"] is None for row in nothing["measures"].values())


def test_two_folders_are_compared_on_images_of_the_same_names():
    second = [image("b", (0.8, 0.5, "palm")), image("a", (0.9, 0.3, "palm")), image("e"), image("c", fault="x")]
    entry = difference(FOLDER, second, chosen(True))
    assert entry["images"] == 2
    assert entry["measures"]["p_wrong per image"]["value"] == pytest.approx((0.5 + 0.3) / 2 - (0.6 + 0.1) / 2)
    assert difference(FOLDER, [image("z")], chosen(True)) is None


def test_a_paired_interval_covers_a_true_difference_and_is_narrower_than_two_single_ones():
    rng = np.random.default_rng(3)
    base = rng.uniform(0.2, 0.8, 200)
    shift = rng.normal(-0.1, 0.02, 200)
    first = [image(str(i), (0.9, p, "palm")) for i, p in enumerate(base)]
    second = [image(str(i), (0.9, p, "palm")) for i, p in enumerate(base + shift)]
    row = difference(first, second, chosen(True))["measures"]["p_wrong per image"]
    assert row["low"] < -0.1 < row["high"] < 0
    single = summary(first, chosen(True))["measures"]["p_wrong per image"]
    assert row["high"] - row["low"] < 0.3 * (single["high"] - single["low"])


def test_the_first_measure_with_and_without_anatomy_has_a_direction():
    assert MEASURES[0].lower_is_better is True
    assert next(each for each in MEASURES if not each.anatomy).lower_is_better is False


def test_a_share_of_all_hands_or_of_none_is_not_certain():
    every, none = ([image(str(i), (0.9, 0.1, name)) for i in range(8)] for name in ("palm", "none"))
    rows = [summary(folder, chosen(True))["measures"]["known gestures"] for folder in (every, none)]
    assert [row["value"] for row in rows] == [1, 0]
    assert (rows[0]["low"], rows[0]["high"]) == (pytest.approx(0.676, abs=0.001), 1)
    assert (rows[1]["low"], rows[1]["high"]) == (0, pytest.approx(0.324, abs=0.001))
    for first, second, value in ((every, every, 0), (none, every, 1)):
        row = difference(first, second, chosen(True))["measures"]["known gestures"]
        assert row["value"] == value and row["low"] < value <= row["high"] and row["high"] - row["low"] > 0.3
