import hashlib
import math
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import UserError
from handtrain.data.dataset import load
from handtrain.data.rows import BadRow, checked_rows
from tests.handtrain import tiny
from tests.handtrain.conftest import datasets_cache, offline  # noqa: F401


def _hand(points: int = 21, value: float = 0.5) -> list[list[float]]:
    return [[value, 0.5, 0.0]] * points


BAD: list[tuple[dict[str, Any], str]] = [
    ({"hand_landmarks": [_hand(22)]}, "does not have 21 landmarks"),
    ({"hand_landmarks": [None]}, "does not have 21 landmarks"),
    ({"hand_landmarks": [_hand(value=math.inf)]}, "not three finite fractions"),
    ({"hand_landmarks": [_hand(value=640.0)]}, "not three finite fractions"),
    ({"hand_landmarks": [[[0.5, 0.5]] * 21]}, "not three finite fractions"),
    ({"hand_landmarks": [_hand(), _hand()]}, "not lists of one length"),
    ({"hand_landmarks": None}, "not lists of one length"),
    ({"handedness": [None]}, "handedness that is not a text"),
    ({"gesture_hand": 4}, "gesture_hand 4 is not the number"),
    ({"gesture_hand": -2}, "gesture_hand -2 is not the number"),
    ({"bboxes": [[0.1, 0.1, math.nan, 0.2]]}, "not four finite fractions"),
    ({"bboxes": [[0.1, 0.1, 0.2]]}, "not four finite fractions"),
    ({"bboxes": [[40.0, 12.0, 100.0, 80.0]]}, "not four finite fractions"),
    ({"bboxes": [[0.1, 0.1, -0.2, 0.2]]}, "not four finite fractions"),
    ({"bboxes": []}, "bboxes and labels are not lists of one length"),
    ({"labels": [None]}, "label that is not a text"),
    ({"text": None}, "its text is missing"),
    ({"text": " "}, "its text is missing"),
    ({"gesture_phrase": 7}, "its gesture_phrase is missing"),
    ({"sha256": "abc"}, "its sha256 is not a hash"),
    ({"width": 0}, "its width is not a number of pixels"),
    ({"height": None}, "its height is not a number of pixels"),
]


@pytest.mark.parametrize(("values", "sentence"), BAD)
def test_d2_a_row_that_cannot_be_used_is_named_with_the_reason(values: dict[str, Any], sentence: str) -> None:
    rows = [tiny.row("train-000", 0), {**tiny.row("train-001", 1), **values}]
    with pytest.raises(BadRow, match=f"row train-001: .*{sentence}"):
        checked_rows(rows, "call")


def test_d2_a_row_without_a_name_has_its_number_and_no_name_comes_twice() -> None:
    rows = [tiny.row("train-000", 0), tiny.row("train-000", 1)]
    with pytest.raises(BadRow, match="row train-000: its image_id is in the split twice"):
        checked_rows(rows, "call")
    with pytest.raises(BadRow, match="row 0: its image_id is missing"):
        checked_rows([{**rows[0], "image_id": None}], "call")


def _write(folder: Path, **values: Any) -> Path:
    from datasets import Dataset

    from handdata.rows.schema import features

    dataset = tiny.write_dataset(folder / "dataset")
    rows = [tiny.row("train-000", 0), {**tiny.row("train-001", 1), **values}]
    path = dataset / "data" / "call" / "train-00000-of-00001.parquet"
    Dataset.from_list(rows, features=features(tiny.GESTURES)).to_parquet(path)
    return dataset


def test_d2_a_split_with_such_a_row_is_one_sentence_with_split_and_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--dataset .*, split 'train' of call, row train-001: .*21 landmarks"):
        load(_write(tmp_path, hand_landmarks=[_hand(20)]), "call")


def test_e_landmarks_that_are_not_numbers_are_found_before_stage_1(tmp_path: Path) -> None:
    """Training would start, and end in Stage II with the advice to lower the learning rate."""
    hand = _hand()
    hand[3] = [0.1, math.nan, 0.0]
    with pytest.raises(UserError, match="row train-001: it has a landmark that is not three finite fractions"):
        load(_write(tmp_path, hand_landmarks=[hand]), "call")


@pytest.mark.parametrize(
    "image",
    [
        None,
        {"bytes": b"", "path": None},
        {"bytes": b"GIF89a not an image of ours", "path": None},
    ],
)
def test_d2_a_row_without_an_image_is_named_before_training(tmp_path: Path, image: dict[str, Any] | None) -> None:
    sha256 = hashlib.sha256((image or {}).get("bytes") or b"").hexdigest()
    with pytest.raises(UserError, match=r"row train-001 (has no image|cannot be read)"):
        load(_write(tmp_path, image=image, sha256=sha256), "call").check_images()


def test_d2_an_image_of_another_size_than_its_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row train-001 is 28 x 20 px, not 30 x 20"):
        load(_write(tmp_path, width=30), "call").check_images()


@pytest.mark.parametrize(
    "card", [b"\xff\xfe---", b"---\nconfigs: 3\n---\n", b"---\n: [\n---\n", b"---\nconfigs:\n- 1\n---\n"]
)
def test_d2_a_damaged_card_is_one_sentence(tmp_path: Path, card: bytes) -> None:
    dataset = tiny.write_dataset(tmp_path / "dataset")
    (dataset / "README.md").write_bytes(card)
    with pytest.raises(UserError, match="--dataset"):
        load(dataset, "call")


def test_d2_columns_of_other_types_are_one_sentence(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    dataset = tiny.write_dataset(tmp_path / "dataset")
    path = dataset / "data" / "call" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"huggingface": b"[not JSON"}), path)
    with pytest.raises(UserError, match="--dataset"):
        load(dataset, "call")
