import numpy as np
import pytest

from handtrain.evaluation import side_effects
from handtrain.evaluation.hands import Hand


def _pose(seed: int, scale: float = 0.5) -> np.ndarray:
    points = np.random.default_rng(seed).random((21, 3)) * scale + 0.2
    points[0, :2], points[1, :2] = 0.2, 0.2 + scale  # the box of the joints has sides of `scale`
    return np.append(points.ravel(), 1.0)


def _hand(pose: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> Hand:
    return Hand(pose[:63].reshape(21, 3) + np.array([*shift, 0.0]), True, 0.9, 64, 64)


def test_the_pose_error_is_a_distance_in_sizes_of_the_hand() -> None:
    small, large = _pose(0, 0.25), _pose(1, 0.5)
    shifted = [[_hand(small, (0.03, 0.04))], [_hand(large, (0.03, 0.04))]]  # 0.05 of the image each
    errors = side_effects.pose_errors(np.stack([small, large]), shifted)
    assert errors == pytest.approx([0.05 / 0.25, 0.05 / 0.5])


def test_the_nearest_of_two_hands_counts_and_missing_ones_are_apart() -> None:
    pose = _pose(2)
    wanted = np.stack([pose, pose, np.full(64, np.nan)])
    errors = side_effects.pose_errors(wanted, [[_hand(_pose(3), (0.3, 0)), _hand(pose)], [], [_hand(pose)]])
    assert errors[0] == pytest.approx(0)
    assert np.isnan(errors[1:]).all()
    record = side_effects.pose_error(wanted, [[_hand(pose)], [], [_hand(pose)]])
    assert (record["error"]["n"], record["no hand"]["value"]) == (1, 0.5)


def test_specificity_counts_the_trained_gesture_where_it_was_not_requested() -> None:
    free = [["palm"], ["fist"], [], ["palm", "none"]]
    base = [["palm"], [], [], []]
    others = [("fist", ["palm"]), ("fist", ["fist"]), ("ok", ["ok", "palm"]), ("ok", [])]
    result = side_effects.specificity("palm", free, base, others)
    values = {name: entry["value"] for name, entry in result.items()}
    assert values == {
        "unasked": 0.5, "unasked, base": 0.25, "unasked, difference": 0.25, "instead of another": 0.5,
        "accuracy of others": 0.5,
    }  # fmt: skip


def test_the_interval_of_a_paired_difference_is_smaller_than_that_of_its_sides() -> None:
    rng = np.random.default_rng(4)
    before = (rng.random(400) < 0.5).astype(float)
    after = np.where(rng.random(400) < 0.02, 1.0, before)
    paired = side_effects.difference(before, after)
    assert paired.high - paired.low < 0.5 * (side_effects.mean(after).high - side_effects.mean(after).low)
    assert paired.low <= paired.value <= paired.high


def test_retention_is_zero_for_equal_images_and_relative_to_other_seeds() -> None:
    images = np.random.default_rng(5).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    result = side_effects.retention(images, images, np.roll(images, 1, axis=0))
    assert result["distance"]["value"] == 0
    assert result["distance of other seeds"]["value"] == pytest.approx(1 / 3, abs=0.05)
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    assert side_effects.distances(black, white).tolist() == [1, 1]


def test_an_empty_set_has_no_value() -> None:
    assert side_effects.mean(np.array([])).record() == {"n": 0, "value": None, "low": None, "high": None}
