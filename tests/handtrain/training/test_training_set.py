import io
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from handtrain.data.dataset import load
from handtrain.method.diffusion import Latents
from handtrain.model.base import open_base
from handtrain.presets import TrainOptions
from handtrain.run.phases import Phases
from handtrain.tensor_cache import TensorCache
from handtrain.training import training_set
from handtrain.training.training_set import EncodedSplit, begun, encode_splits, in_turns, recomputed_landmarks


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


def test_a_flat_layer_that_is_drawn_while_images_are_encoded_is_the_same(
    base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs, feature = [load(dataset, "call", limit=3)], torch.linspace(-1, 1, 63)
    threads: list[bool] = []

    def encoded(name: str) -> Any:
        cache, options = TensorCache(tmp_path / name), TrainOptions(lam=0.5)
        device = torch.device("cpu")
        (split,), _ = encode_splits(photographs, open_base(base), options, feature, device, cache, False, Phases())
        return split

    def in_a_thread(compute: Callable[[Callable[[], None]], torch.Tensor], in_thread: bool) -> Any:
        threads.append(in_thread)
        return begun(compute, True)

    in_turn = encoded("in turn")
    monkeypatch.setattr(training_set, "begun", in_a_thread)
    meanwhile = encoded("meanwhile")
    assert threads == [False], "a CPU has no core to spare"
    assert torch.equal(meanwhile.mixed, in_turn.mixed) and not torch.equal(meanwhile.mixed, meanwhile.text)
    assert torch.equal(meanwhile.latents.mean, in_turn.latents.mean)


def test_what_is_begun_in_a_thread_ends_with_the_block() -> None:
    started, ended = threading.Event(), threading.Event()

    def endless(check: Callable[[], None]) -> None:
        started.set()
        try:
            for _ in range(600):
                check()
                time.sleep(0.1)
        except CancelledError:
            ended.set()
            raise

    with pytest.raises(ZeroDivisionError), begun(endless, in_thread=True):
        assert started.wait(60)
        _ = 1 / 0
    assert ended.is_set()


def test_without_a_thread_nothing_begins_before_it_is_needed() -> None:
    order: list[str] = []

    def compute(check: Callable[[], None]) -> int:
        order.append("computed")
        return 7

    with begun(compute, in_thread=False) as result:
        order.append("before")
        assert result() == 7
    assert order == ["before", "computed"]


def test_the_first_rows_of_a_split_in_turns_are_of_all_gestures() -> None:
    names = ["a0", "a1", "a2", "b0", "c0", "c1"]
    numbers = torch.arange(6.0).reshape(6, 1, 1)
    latents = Latents(numbers[..., None], numbers[..., None], None, numbers[:, 0], {"ids": numbers})
    split = EncodedSplit(names, [name.upper() for name in names], latents, numbers, numbers + 10, (3, 1, 2))
    turned = in_turns(split)
    order = [0, 3, 4, 1, 5, 2]
    assert turned.image_ids == [names[row] for row in order] and turned.texts == [
        name.upper() for name in turned.image_ids
    ]
    assert turned.text.flatten().tolist() == order and turned.mixed.flatten().tolist() == [10 + row for row in order]
    of_rows = (turned.latents.mean, turned.latents.poses, turned.latents.more["ids"])
    assert all(column is not None and column.flatten().tolist() == order for column in of_rows)
    single = replace(split, groups=())
    assert in_turns(single) is single
