import hashlib
from pathlib import Path

import pytest

from handdata.errors import UserError
from handdata.huggingface import HubName, parse
from handtrain.data import dataset as data
from tests.handtrain import tiny


def test_rows_come_in_the_order_of_their_image_id(dataset: Path) -> None:
    photographs = data.load(dataset, "call")
    assert [row.image_id for row in photographs.rows] == [f"train-{number:03d}" for number in range(5)]
    assert photographs.rows[1].phrase == tiny.PHRASE
    assert hashlib.sha256(photographs.image(3)).hexdigest() == photographs.rows[3].sha256


def test_limit_keeps_the_first_rows(dataset: Path) -> None:
    assert [row.image_id for row in data.load(dataset, "call", limit=2).rows] == ["train-000", "train-001"]


def test_the_fingerprint_depends_on_the_rows(dataset: Path) -> None:
    assert data.load(dataset, "call").fingerprint() == data.load(dataset, "call").fingerprint()
    assert data.load(dataset, "call", limit=4).fingerprint() != data.load(dataset, "call").fingerprint()


@pytest.mark.parametrize(
    ("gesture", "split", "sentence"),
    [
        ("palm", "train", "no configuration 'palm'"),
        ("call", "test", "no split 'test' for call; it has train, validation"),
    ],
)
def test_a_wrong_gesture_or_split_is_one_sentence(dataset: Path, gesture: str, split: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        data.load(dataset, gesture, split)


def test_a_folder_without_a_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dataset"):
        data.load(tmp_path, "call")
    with pytest.raises(UserError, match="is not a folder"):
        data.load(tmp_path / "absent", "call")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    from datasets import Dataset

    folder = tiny.write_dataset(tmp_path / "dataset")
    for path in folder.glob("data/call/*.parquet"):
        Dataset.from_parquet(str(path), cache_dir=str(tmp_path)).remove_columns(["gesture_hand", "text"]).to_parquet(
            path
        )
    with pytest.raises(UserError, match="lacks the columns gesture_hand, text"):
        data.load(folder, "call")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    before = data.load(tiny.write_dataset(tmp_path / "dataset"), "call")
    after = data.load(tiny.write_dataset(tmp_path / "dataset", train=7), "call")
    assert (len(before.rows), len(after.rows)) == (5, 7)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    folder = tiny.write_dataset(tmp_path / "dataset")
    next(folder.glob("data/call/train-*.parquet")).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="cannot be read"):
        data.load(folder, "call")


def test_an_empty_split_is_one_sentence(tmp_path: Path) -> None:
    folder = tiny.write_dataset(tmp_path / "dataset", validation=0)
    with pytest.raises(UserError, match="'validation' of call is empty"):
        data.load(folder, "call", "validation")


def test_an_image_with_another_sha256_is_refused(tmp_path: Path) -> None:
    from datasets import Dataset

    from handdata.rows.schema import features

    rows = [{**tiny.row("train-000", 0), "sha256": "0" * 64}]
    folder = tiny.write_dataset(tmp_path / "dataset")
    path = folder / "data" / "call" / "train-00000-of-00001.parquet"
    Dataset.from_list(rows, features=features(tiny.GESTURES)).to_parquet(path)
    photographs = data.load(folder, "call")
    with pytest.raises(UserError, match="row train-000 does not match its sha256"):
        photographs.image(0)


def test_hub_names_are_parsed_strictly() -> None:
    assert parse("hf:me/data@v1.0", "--dataset") == HubName("me/data", "v1.0")
    assert parse("hf:me/data", "--dataset") == HubName("me/data", None)
    with pytest.raises(UserError, match="some/folder is not a folder"):
        parse("some/folder", "--dataset")
    with pytest.raises(UserError, match="hf:USER/NAME@REVISION"):
        parse("hf:data", "--dataset")
