import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from handtrain.data.dataset import load
from handtrain.training.training_set import recomputed_landmarks


def test_recomputed_landmarks_are_those_of_the_hand_in_the_box(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a finder that sees two hands, of which the second is in the annotated box."""
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
    monkeypatch.setitem(sys.modules, "handdata.vision.landmarks", fake)
    first, second = recomputed_landmarks(photographs, progress=False)
    assert np.allclose(first.landmarks, here)
    assert first.left_hand
    assert second.box != first.box
    assert not (second.landmarks and second.box[0] > here[0, 0])  # None if no hand is in its own box
    assert first.landmarks != photographs.rows[0].landmarks
