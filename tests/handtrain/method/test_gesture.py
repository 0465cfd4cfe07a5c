from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handdata.errors import UserError
from handtrain.data.dataset import Row, load
from handtrain.method.gesture import absolute, gesture_feature, normalised


@pytest.fixture
def row(dataset: Path) -> Row:
    return next(row for row in load(dataset, "call").rows if not row.left_hand)


def _with(row: Row, points: np.ndarray, **changes: object) -> Row:
    return replace(row, landmarks=tuple(map(tuple, points.tolist())), **changes)


def test_the_feature_is_the_mean_of_the_hands_that_make_the_gesture(dataset: Path) -> None:
    rows = load(dataset, "call").rows
    without = [*rows, replace(rows[0], landmarks=None)]
    feature = gesture_feature(without, "absolute")
    assert np.allclose(feature.values, np.mean([np.ravel(row.landmarks) for row in rows], axis=0))
    assert (len(feature.values), feature.images, feature.without_hand) == (63, 5, 1)


def test_a_split_without_hands_is_one_sentence(row: Row) -> None:
    with pytest.raises(UserError, match="gesture_hand is -1"):
        gesture_feature([replace(row, landmarks=None)], "absolute")


def test_the_normalised_feature_ignores_place_and_size(row: Row) -> None:
    points = absolute(row)
    elsewhere = _with(row, points * 0.5 + (0.3, 0.1, 0.0))
    assert np.allclose(normalised(elsewhere), normalised(row))
    assert not np.allclose(absolute(elsewhere), absolute(row))
    assert np.allclose(normalised(row)[0], 0)
    assert np.linalg.norm(normalised(row)[9]) == pytest.approx(1)


def test_the_normalised_feature_ignores_the_shape_of_the_image(row: Row) -> None:
    wider = _with(row, absolute(row) / (2, 1, 2), width=2 * row.width)  # the same hand with empty space at its side
    assert np.allclose(normalised(wider), normalised(row))


def test_left_hands_are_mirrored_and_right_hands_are_not(row: Row) -> None:
    mirrored = _with(row, absolute(row) * (-1, 1, 1) + (1, 0, 0), left_hand=True)
    assert np.allclose(normalised(mirrored), normalised(row))
    assert not np.allclose(normalised(replace(mirrored, left_hand=False)), normalised(row))
