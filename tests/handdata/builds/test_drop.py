"""Removal of an image or a person: of the pictures, of all columns computed from them, and of the dataset."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from handdata.builds.build import Build
from handdata.cli.flags import Drop
from handdata.errors import UserError
from handdata.rows import decisions
from handdata.rows.shards import image_path, read_table, shard_path, write_table
from handdata.stages import assemble
from tests.finished import QUIET, finished_build

COUNTS = {"train": 3, "validation": 0, "test": 2}


@pytest.fixture
def build(tmp_path) -> Path:
    folder = finished_build(tmp_path / "build", COUNTS)
    assemble.run(folder, Build.open(folder).recipe, QUIET)
    return folder


def traces(build: Path, word: str) -> list[Path]:
    """Return the files below a build that contain a word, except the manifest and the decision itself."""
    files = (path for path in build.rglob("*") if path.is_file())
    kept = {build / "manifest.parquet", build / "decisions.jsonl"}
    return [path for path in files if path not in kept and word.encode() in path.read_bytes()]


def test_a_person_is_removed_from_every_picture_and_column_and_a_spare_comes_in(build):
    row = pq.read_table(build / "dataset/data/call/train-00000-of-00001.parquet").to_pylist()[0]
    caption, picture = row["caption"], row["image"]["bytes"]
    done = Build.open(build).drop(subject=row["subject"], note="request by mail", progress=False)
    assert (done.images, done.rows) == (1, 10)
    assert not image_path(build, "call", row["image_id"]).exists()
    assert not any(picture in path.read_bytes() for path in build.rglob("*") if path.is_file())
    captions = [
        text for path in build.rglob("captions/*.parquet") for text in pq.read_table(path)["caption"].to_pylist()
    ]
    assert caption not in captions and captions.count(None) == 1
    assert not traces(build / "dataset", row["image_id"]) and not traces(build / "dataset", row["subject"])
    assert pq.read_metadata(build / "dataset/data/call/train-00000-of-00001.parquet").num_rows == 3
    assert decisions.replay(build).dropped_subjects == {row["subject"]}


def test_a_shard_keeps_its_key_and_its_other_rows(build):
    path = shard_path(build, "captions", 0)
    table = pq.read_table(path).replace_schema_metadata({"hand1000:key": "k"})
    write_table(table, path)
    Build.open(build).drop(table["image_id"][4].as_py(), progress=False)
    after = read_table(path)
    assert after.schema.metadata == {b"hand1000:key": b"k"} and after["reason"][4].as_py() == "dropped"
    assert after["caption"].to_pylist()[:4] == table["caption"].to_pylist()[:4]


def test_mistakes_are_one_sentence_and_change_nothing(build):
    with pytest.raises(UserError, match="either --image-id or --subject"):
        Build.open(build).drop()
    with pytest.raises(UserError, match="--subject nobody: no row of"):
        Build.open(build).drop(subject="nobody")
    assert not (build / "decisions.jsonl").exists()


def test_without_a_row_left_the_dataset_is_deleted_and_the_repository_is_mentioned(build, capsys):
    for person in pq.read_table(build / "manifest.parquet")["subject"].to_pylist():
        assert Drop(build, subject=person)() == 0
    printed = capsys.readouterr().out
    assert not (build / "dataset").exists() and not (build / "assembled.json").exists()
    assert "no row is left to publish" in printed and "delete its repository by hand" in printed
    assert not list(build.rglob("*.jpg")) and str(build) in printed


@pytest.mark.parametrize("damaged", ["assembled.json", "captions/00000.parquet"])
def test_the_old_dataset_goes_also_where_a_file_of_the_build_is_damaged(build, damaged):
    row = pq.read_table(build / "dataset/data/call/train-00000-of-00001.parquet").to_pylist()[0]
    (build / damaged).write_bytes((build / damaged).read_bytes()[:-9])
    try:
        assert Build.open(build).drop(image_id=row["image_id"], progress=False).rows == 10
    except UserError:
        assert damaged == "captions/00000.parquet"
    assert not any(row["image"]["bytes"] in path.read_bytes() for path in build.rglob("*") if path.is_file())
