from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handtrain.evaluation import side_effects
from handtrain.evaluation.hands import Hand
from handtrain.evaluation.image_sets import Preparation, folder_set
from handtrain.evaluation.metrics import GestureJudge
from handtrain.evaluation.side_effects import DISTANCE, INSTEAD, LOWER_IS_BETTER, OTHERS, UNASKED, Further
from handtrain.method.gesture import normalised


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


def test_a_gesture_is_made_if_one_of_the_hands_makes_it() -> None:
    assert side_effects.makes([["palm"], ["fist"], [], ["palm", "none"]], "palm").tolist() == [1, 0, 0, 1]


def test_the_interval_of_a_paired_difference_is_smaller_than_that_of_its_sides() -> None:
    rng = np.random.default_rng(4)
    before = (rng.random(400) < 0.5).astype(float)
    after = np.where(rng.random(400) < 0.02, 1.0, before)
    paired = side_effects.share_change(before, after)
    assert paired.high - paired.low < 0.5 * (side_effects.share(after).high - side_effects.share(after).low)
    assert paired.low <= paired.value <= paired.high


def test_a_share_of_zero_is_not_certain() -> None:
    never = side_effects.share(np.zeros(8))
    assert (never.value, never.low) == (0, 0) and never.high == pytest.approx(0.324, abs=0.001)
    change = side_effects.share_change(np.zeros(8), np.zeros(8))
    assert change.low < 0 == change.value < change.high


def test_retention_is_zero_for_equal_images_and_relative_to_other_seeds() -> None:
    images = np.random.default_rng(5).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    result = side_effects.retention(images, images, np.roll(images, 1, axis=0))
    assert result["distance"]["value"] == 0
    assert result["distance of other seeds"]["value"] == pytest.approx(1 / 3, abs=0.05)
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    assert side_effects.distances(black, white).tolist() == [1, 1]


def test_an_empty_set_has_no_value() -> None:
    empty = np.array([])
    for estimate in (side_effects.mean(empty), side_effects.share(empty), side_effects.share_change(empty, empty)):
        assert estimate.record() == {"n": 0, "value": None, "low": None, "high": None}


class Found:
    """Rows of a set: the hands of each image."""

    def __init__(self, *hands: list[Hand]) -> None:
        self._hands = hands

    def hands(self) -> list[list[Hand]]:
        return list(self._hands)


def _folder(folder: Path, *shades: int, size: tuple[int, int] = (8, 8)) -> Path:
    folder.mkdir()
    for number, shade in enumerate(shades):
        Image.new("RGB", size, (shade,) * 3).save(folder / f"{number}.png")
    return folder


def _further(root: Path, other: str = "fist") -> Further:
    root.mkdir(exist_ok=True)
    free, of_base = (_folder(root / name, *shades) for name, shades in (("free", (0, 51)), ("of_base", (0, 102))))
    opened = Further.open(free, of_base, ())
    return Further(opened.free, opened.free_base, ((other, folder_set(free, "--others")),))


AS_THEY_ARE = Preparation(0, "center")


@pytest.mark.parametrize("missing", ["judge", "hands", "gesture"])
def test_every_requested_row_has_a_value_or_a_reason_and_the_distance_needs_no_judge(
    tmp_path: Path, missing: str
) -> None:
    reason = "the gesture of the images is not known" if missing == "gesture" else f"no {missing}"
    judge: Any = reason if missing == "judge" else GestureJudge(np.zeros((6, 63)), np.array(["palm"] * 6), 1.0)
    rows: Any = reason if missing == "hands" else {}
    gesture = None if missing == "gesture" else "palm"
    entries = _further(tmp_path).entries(rows, AS_THEY_ARE, gesture, judge)
    assert list(entries) == list(LOWER_IS_BETTER)[1:]
    assert entries.pop(DISTANCE)["fake"]["value"] == pytest.approx(0.1)
    assert all(entry == {"not_computed": reason} for entry in entries.values())
    others = Further(None, None, (("fist", folder_set(tmp_path / "free", "--others")),))
    assert list(others.entries(rows, AS_THEY_ARE, gesture, judge)) == [INSTEAD, OTHERS]


def test_a_gesture_that_the_judge_does_not_know_has_a_reason_instead_of_a_share_of_zero(tmp_path: Path) -> None:
    palm, fist = (_pose(seed) for seed in (6, 7))
    known = np.stack([normalised(_hand(pose)).ravel() for pose in (palm,) * 6 + (fist,) * 6])
    judge = GestureJudge(known, np.array(["palm"] * 6 + ["fist"] * 6), 1.0)
    rows: Any = {name: Found([_hand(fist)], [_hand(palm)]) for name in ("free", "free base", "others 0")}
    entries = _further(tmp_path / "a").entries(rows, AS_THEY_ARE, "palm", judge)
    assert [entries[name]["fake"]["value"] for name in (UNASKED, INSTEAD, OTHERS)] == [0.5, 0.5, 0.5]
    entries = _further(tmp_path / "b", other="rock").entries(rows, AS_THEY_ARE, "palm", judge)
    assert entries[UNASKED]["fake"]["value"] == 0.5
    for name in (INSTEAD, OTHERS):
        assert entries[name]["not_computed"].startswith("training hands of rock are missing: ")


def test_the_distance_of_images_as_they_are_takes_pairs_of_any_size(tmp_path: Path) -> None:
    sides = [_folder(tmp_path / name, shade) for name, shade in (("free", 0), ("base", 51))]
    for folder, shade in zip(sides, (51, 153), strict=True):
        Image.new("RGB", (6, 4), (shade,) * 3).save(folder / "wide.png")
    entry = Further.open(*sides, ()).entries("no hands", AS_THEY_ARE, "palm", "no judge")[DISTANCE]
    assert entry["fake"]["value"] == pytest.approx(0.3) and entry["n"] == {"fake": 2}
    Image.new("RGB", (6, 5)).save(sides[1] / "wide.png")
    entry = Further.open(*sides, ()).entries("no hands", AS_THEY_ARE, "palm", "no judge")[DISTANCE]
    assert entry["not_computed"].startswith("wide.png has different sizes in --free and --free-base: ")
    entry = Further.open(*sides, ()).entries("no hands", Preparation(4, "center"), "palm", "no judge")[DISTANCE]
    assert entry["n"] == {"fake": 2}
