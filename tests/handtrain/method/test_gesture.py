import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from handdata.errors import UserError
from handtrain.data.dataset import Row, load
from handtrain.method.gesture import absolute, found_again, gesture_feature, normalised


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
    wider = _with(row, absolute(row) / (2, 1, 2), width=2 * row.width)  # the same hand with empty room at its side
    assert np.allclose(normalised(wider), normalised(row))


def test_left_hands_are_mirrored_and_right_hands_are_not(row: Row) -> None:
    mirrored = _with(row, absolute(row) * (-1, 1, 1) + (1, 0, 0), left_hand=True)
    assert np.allclose(normalised(mirrored), normalised(row))
    assert not np.allclose(normalised(replace(mirrored, left_hand=False)), normalised(row))


def test_landmarks_are_found_again_only_when_asked(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a finder that sees two hands, of which the second lies in the annotated box."""
    photographs = load(dataset, "call", limit=2)
    left, top, right, bottom = photographs.rows[0].box or (0, 0, 0, 0)
    here = np.tile([(left + right) / 2, (top + bottom) / 2, 0.5], (21, 1))

    class Finder:
        def __enter__(self) -> "Finder":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def find(self, image: np.ndarray) -> SimpleNamespace:
            assert image.shape == (20, 28, 3)
            return SimpleNamespace(landmarks=np.stack([here * 0, here]), handedness=("Right", "Left"))

    def chosen(landmarks: np.ndarray, boxes: list[list[float]], labels: list[str], gesture: str) -> tuple[int, float]:
        assert labels == [gesture]
        x, y, width, height = boxes[0]
        inside = [x <= hand[0, 0] <= x + width and y <= hand[0, 1] <= y + height for hand in landmarks]
        return (inside.index(True) if any(inside) else -1), 1.0

    def decode(data: bytes) -> np.ndarray:
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(data)))

    fake = SimpleNamespace(HandFinder=Finder, decode=decode, gesture_hand=chosen)
    monkeypatch.setitem(sys.modules, "handdata.landmarks", fake)
    first, second = found_again(photographs, progress=False)
    assert np.allclose(first.landmarks, here)
    assert first.left_hand
    assert second.box != first.box
    assert not (second.landmarks and second.box[0] > here[0, 0])  # where its own box holds no hand there is none
    assert first.landmarks != photographs.rows[0].landmarks
