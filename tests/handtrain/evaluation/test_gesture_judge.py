"""Known hands of a gesture: those in the annotated boxes, detected in images of the size of the generated ones."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handdata.files import sha256_of
from handdata.huggingface import HubName
from handtrain.data.dataset import load, row_window
from handtrain.evaluation import features, gesture_judge, hands, metrics
from handtrain.evaluation.gesture_judge import named
from handtrain.evaluation.hands import Hand
from handtrain.evaluation.image_sets import Preparation, dataset_set
from handtrain.tensor_cache import TensorCache


class Finder:
    """Finds a hand in the left upper corner and another at the bright pixels, where the drawn box is."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __enter__(self) -> "Finder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[..., Any], *columns: Any) -> list[Any]:
        return list(map(function, *columns))

    def find(self, image: np.ndarray) -> SimpleNamespace:
        self.seen.append(image)
        down, across = np.nonzero(image.min(axis=2) > 170)
        low, high = (np.array([f(across) / image.shape[1], f(down) / image.shape[0]]) for f in (np.min, np.max))
        corners = np.linspace(low, high, 21)  # (21, 2)
        bright = np.concatenate([corners, np.full((21, 1), 0.25)], axis=1)
        corner = np.concatenate([np.linspace(0, 0.05, 21)[:, None].repeat(2, 1), np.full((21, 1), 0.75)], axis=1)
        return SimpleNamespace(
            landmarks=np.stack([corner, bright]).astype(np.float32), handedness=("Left", "Right"), scores=(0.9, 0.8)
        )


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Finder:
    fake = Finder()
    monkeypatch.setattr(gesture_judge.hands, "hand_finder", lambda detection: fake)
    (tmp_path / "model").write_bytes(b"a landmarker")
    monkeypatch.setattr(gesture_judge.assets, "path", lambda name: tmp_path / "model")
    return fake


@pytest.mark.parametrize("crop", ["center", "hand"])
def test_the_hand_in_the_annotated_box_is_taken_from_the_prepared_image(
    dataset: Path, finder: Finder, tmp_path: Path, crop: str
) -> None:
    cache = TensorCache(tmp_path / "cache")
    known = gesture_judge.known_hands(dataset, Preparation(10, crop), cache, "--real")
    rows = load(dataset, "call").rows
    assert list(known) == ["call"]
    assert [image.shape for image in finder.seen] == [(10, 10, 3)] * len(rows)
    inside = [row for row in rows if row.box and _overlaps(row_window(row, 10, crop).box(row.box))]
    assert len(known["call"]) == len(inside) > 0
    assert all(hand.landmarks[0, 2] == 0.25 and not hand.left_hand for hand in known["call"])  # never the corner's
    assert {(hand.width, hand.height) for hand in known["call"]} == {(10, 10)}
    again = gesture_judge.known_hands(dataset, Preparation(10, crop), cache, "--real")
    assert len(finder.seen) == len(rows)  # no image is searched twice
    assert np.array_equal(again["call"][0].landmarks, known["call"][0].landmarks)
    gesture_judge.known_hands(dataset, Preparation(12, crop), cache, "--real")
    assert len(finder.seen) == 2 * len(rows)  # another size needs another search


def _overlaps(box: tuple[float, ...]) -> bool:
    return box[2] - box[0] > 0.1


def test_images_as_they_are_keep_their_boxes(dataset: Path, finder: Finder, tmp_path: Path) -> None:
    known = gesture_judge.known_hands(dataset, Preparation(0, "center"), TensorCache(tmp_path / "cache"), "--real")
    assert {image.shape for image in finder.seen} == {(20, 28, 3)}
    assert len(known["call"]) == 5


def _hands(count: int, bend: float) -> list[Hand]:
    rng, along = np.random.default_rng(3), np.linspace(0, 1, 21)[:, None]
    points = along * (0.1, 0.5, 0.0) + bend * along**2 * (0.4, 0.0, 0.2) + 0.2
    return [Hand(points + rng.normal(0, 0.005, (21, 3)), False, 0.9, 64, 64) for _ in range(count)]


def test_known_hands_distinguish_gestures() -> None:
    judge = gesture_judge.gesture_judge({"call": _hands(20, 0.0), "ok": _hands(20, 1.0)}, "ok")
    assert isinstance(judge, metrics.GestureJudge)
    assert [named(_hands(2, bend), judge) for bend in (0.0, 1.0, 9.0)] == [["call"] * 2, ["ok"] * 2, ["none"] * 2]


@pytest.mark.parametrize(("count", "gesture"), [(20, "palm"), (2, "call")])
def test_too_few_hands_are_a_reason(count: int, gesture: str) -> None:
    reason = gesture_judge.gesture_judge({"call": _hands(count, 0.0)}, gesture)
    assert isinstance(reason, str)
    assert gesture in reason


def test_hands_found_before_serve_an_evaluation_too(dataset: Path, finder: Finder, tmp_path: Path) -> None:
    cache, prepare = TensorCache(tmp_path / "cache"), Preparation(10, "center")
    gesture_judge.known_hands(dataset, prepare, cache, "--real")
    sha256 = sha256_of(tmp_path / "model")
    real = dataset_set(load(dataset, "call"), "train", "--real")
    rows = features.extract(real, prepare, features.hand_extractor(finder, hands.DETECTION, sha256), cache)
    assert rows.images == len(finder.seen) == 5  # no image was searched twice
    features.extract(real, prepare, features.hand_extractor(finder, 0.0, sha256), cache)
    assert len(finder.seen) == 10  # another confidence needs another search


def test_a_branch_is_resolved_once_for_all_gestures(dataset: Path, finder: Finder, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    resolved: list[HubName] = []
    commit = HubName("someone/hands", "a" * 40)
    opened = SimpleNamespace(place=commit)
    monkeypatch.setattr(gesture_judge, "open_published", lambda place, *_: resolved.append(place) or opened)
    monkeypatch.setattr(gesture_judge, "gestures_of", lambda place, *_: ["call"] * (place == commit))
    monkeypatch.setattr(gesture_judge, "load", lambda place, *_, **__: place == commit and load(dataset, "call"))
    branch = HubName("someone/hands", "main")
    gesture_judge.known_hands(branch, Preparation(10, "center"), TensorCache(tmp_path / "cache"), "--real")
    assert resolved == [branch]
    assert len(finder.seen) == 5
