"""The dataset of a finished build: its rows, its bytes, spares for failed rows."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from handdata.builds import status
from handdata.builds.build import Build
from handdata.errors import Unfinished, UserError
from handdata.gestures import gestures
from handdata.recipe import AssembleOptions
from handdata.rows import decisions
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import MANIFEST, STAGE_COLUMNS, features
from handdata.rows.shards import image_path
from handdata.stages import assemble
from tests.finished import COUNTS, QUIET, finished_build


def assembled(build: Path) -> Path:
    assemble.run(build, Build.open(build).recipe, QUIET)
    return build / "dataset"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows_of(dataset: Path, gesture: str, split: str) -> list[dict]:
    tables = (pq.read_table(path) for path in sorted((dataset / "data" / gesture).glob(f"{split}-*.parquet")))
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    folder = finished_build(tmp_path_factory.mktemp("finished") / "build", failed={0: ("captions", "image-corrupt")})
    assembled(folder)
    return folder


def test_every_gesture_and_split_has_the_requested_count_in_order_of_id(build):
    for gesture in ("call", "ok"):
        for split, count in COUNTS.items():
            ids = [row["image_id"] for row in rows_of(build / "dataset", gesture, split)]
            assert len(ids) == count and ids == sorted(ids)


def test_a_row_holds_the_stages_columns_and_the_exact_bytes_of_the_image(build):
    manifest = {row["image_id"]: row for row in read_manifest(build).to_pylist()}
    tables = {stage: pq.read_table(build / stage).to_pylist() for stage in STAGE_COLUMNS}
    for row in rows_of(build / "dataset", "ok", "train"):
        data = image_path(build, "ok", row["image_id"]).read_bytes()
        assert row["image"] == {"bytes": data, "path": f"{row['image_id']}.jpg"}
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])
        outputs = {stage: next(r for r in rows if r["image_id"] == row["image_id"]) for stage, rows in tables.items()}
        for stage, name in (
            ("captions", "caption"),
            ("landmarks", "hand_landmarks"),
            ("fetch", "orig_width"),
            ("checks", "checks"),
        ):
            assert row[name] == outputs[stage][name]
        assert row["gesture"] == 1 and row["gesture_phrase"] == gestures()["ok"].phrase
        assert row["member"] == manifest[row["image_id"]]["member"]


def test_the_schema_is_the_contract_and_holds_the_features_for_datasets(build):
    schema = pq.read_schema(next((build / "dataset").rglob("train-*.parquet")))
    expected = features(["call", "ok"]).arrow_schema
    assert schema.equals(expected) and schema.metadata[b"huggingface"] == expected.metadata[b"huggingface"]


def test_row_groups_stay_below_the_limit_and_have_a_page_index(tmp_path):
    build = finished_build(tmp_path, {"train": 30, "validation": 0, "test": 0}, ("call",), size=128)
    options = AssembleOptions(group_bytes=20_000, file_bytes=60_000)
    recipe = Build.open(build).recipe
    assemble.run(build, replace(recipe, assemble=options), QUIET)
    files = sorted((build / "dataset/data/call").glob("*.parquet"))
    assert len(files) > 1 and {f"-of-{len(files):05d}" in path.name for path in files} == {True}
    ids: list[str] = []
    for path in files:
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            assert group.column(0).total_uncompressed_size < 40_000
            assert group.column(5).has_offset_index and group.column(5).has_column_index
        ids += pq.read_table(path)["image_id"].to_pylist()
    assert ids == sorted(ids) and len(ids) == 30


def test_the_same_rows_in_another_folder_give_the_same_bytes(build, tmp_path):
    other = finished_build(tmp_path / "elsewhere", failed={0: ("captions", "image-corrupt")})
    assert contents(assembled(other)) == contents(build / "dataset")


def test_the_list_of_checksums_is_true(build):
    listed = json.loads((build / "dataset/checksums.json").read_text())["files"]
    there = contents(build / "dataset")
    assert set(listed) == set(there) - {"checksums.json"}
    for path, entry in listed.items():
        assert hashlib.sha256(there[path]).hexdigest() == entry["sha256"] and len(there[path]) == entry["bytes"]


def test_the_dataset_is_rebuilt_only_after_a_change(build, tmp_path):
    copy = tmp_path / "build"
    shutil.copytree(build, copy)
    before = (copy / "dataset/README.md").stat().st_mtime_ns
    assembled(copy)
    assert (copy / "dataset/README.md").stat().st_mtime_ns == before
    decisions.append(
        copy, [decisions.Decision("rejected", image_id=rows_of(copy / "dataset", "ok", "test")[0]["image_id"])]
    )
    assembled(copy)
    assert (copy / "dataset/README.md").stat().st_mtime_ns != before


def test_an_edited_text_is_published_and_a_rejected_row_replaced(build, tmp_path):
    copy = tmp_path / "build"
    shutil.copytree(build, copy)
    first, second = rows_of(copy / "dataset", "ok", "train")[:2]
    text = f"a man {gestures()['ok'].phrase} outside."
    decisions.append(copy, [
        decisions.Decision("edited", image_id=first["image_id"], text=text),
        decisions.Decision("rejected", image_id=second["image_id"]),
    ])  # fmt: skip
    rows = {row["image_id"]: row for row in rows_of(assembled(copy), "ok", "train")}
    assert rows[first["image_id"]]["text"] == text and rows[first["image_id"]]["rewrite"] == "edited"
    assert second["image_id"] not in rows and len(rows) == COUNTS["train"]


@pytest.mark.parametrize(
    ("failure", "published"),
    [(("texts", "text-impossible"), True), (("captions", "caption-empty"), True), (("fetch", "wrong-crc"), False)],
)
def test_a_persons_text_takes_the_place_of_one_that_could_not_be_made(failure, published, tmp_path):
    build = finished_build(tmp_path, failed={0: failure})
    row = read_manifest(build).to_pylist()[0]
    text = f"a man {gestures()[row['gesture']].phrase} outside."
    decisions.append(build, [decisions.Decision("edited", image_id=row["image_id"], text=text)])
    rows = {found["image_id"]: found for found in rows_of(assembled(build), row["gesture"], row["split"])}
    assert (row["image_id"] in rows) is published
    assert not published or (rows[row["image_id"]]["text"], rows[row["image_id"]]["checks"]) == (text, [])


def test_a_text_that_was_added_by_hand_is_checked_before_anything_is_written(tmp_path):
    build = finished_build(tmp_path)
    image_id = read_manifest(build)["image_id"][0].as_py()
    line = json.dumps({"what": "edited", "image_id": image_id, "text": "a man at a wall"})
    (build / decisions.FILE).write_text(line + "\n")
    with pytest.raises(UserError, match=rf"decisions.jsonl: the text of {image_id} fails the checks: .*missing"):
        assembled(build)
    assert not (build / "dataset").exists()


def test_near_duplicates_do_not_cross_the_splits(tmp_path):
    build = finished_build(tmp_path, like={0: 2})  # call/train shows the picture of call/test
    dataset = assembled(build)
    ids = read_manifest(build)["image_id"].to_pylist()
    assert ids[0] not in {row["image_id"] for row in rows_of(dataset, "call", "train")}
    assert ids[2] in {row["image_id"] for row in rows_of(dataset, "call", "test")}
    reasons = [group["reasons"] for group in assemble.read_summary(build)["left_out"]]
    assert {"duplicate-in-other-split": 1} in reasons


def test_an_image_that_changed_since_it_was_measured_is_not_published(build, tmp_path):
    copy = tmp_path / "build"
    shutil.copytree(build, copy)
    (copy / "assembled.json").unlink()
    row = rows_of(copy / "dataset", "ok", "train")[0]
    image_path(copy, "ok", row["image_id"]).write_bytes(b"something else")
    with pytest.raises(Unfinished, match="has changed since it was measured"):
        assembled(copy)
    assert not (copy / ".dataset.partial").exists()


def test_a_missing_stage_is_named(build, tmp_path):
    copy = tmp_path / "build"
    shutil.copytree(build, copy)
    shutil.rmtree(copy / "texts")
    with pytest.raises(UserError, match=r"needs the output of 'rewrite', and .*/texts/00000\.parquet is missing"):
        assembled(copy)


def test_the_published_manifest_names_the_published_rows_and_no_others(build):
    manifest = pq.read_table(build / "dataset/manifest.parquet")
    assert manifest.schema.equals(MANIFEST)
    published = {row["image_id"] for g in ("call", "ok") for s in COUNTS for row in rows_of(build / "dataset", g, s)}
    assert set(manifest["image_id"].to_pylist()) == published


def test_status_reports_the_dataset_and_whether_it_is_current(build, tmp_path):
    copy = tmp_path / "build"
    shutil.copytree(build, copy)
    dataset = Build.open(copy).status()["dataset"]
    assert dataset == {"rows": dict.fromkeys(("call", "ok"), COUNTS), "shortfalls": [], "current": True}
    printed = status.text(Build.open(copy).status())
    assert "dataset: 24 rows, up to date" in printed
    assert "6 train, 2 validation, 4 test" in printed
    ids = [
        row["image_id"] for row in read_manifest(copy).to_pylist() if (row["gesture"], row["split"]) == ("ok", "train")
    ]
    decisions.append(copy, [decisions.Decision("dropped", image_id=image_id) for image_id in ids[1:]])
    assert "older than the build" in status.text(Build.open(copy).status())
    assembled(copy)
    assert "ok, train: 1 of 6 rows" in status.text(Build.open(copy).status())
    shutil.rmtree(copy / "dataset")
    assert status.text(Build.open(copy).status()).endswith("dataset: not assembled yet")
