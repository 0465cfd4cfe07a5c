"""The stage `landmarks`: every photograph's gesture hand, any number of threads, reasons of bad images."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handdata.builds import engine
from handdata.errors import UserError
from handdata.recipe import LandmarkOptions
from handdata.rows.schema import MANIFEST
from handdata.rows.shards import image_path, shard_path, write_table
from handdata.stages import Execution, stage_named
from handdata.stages.landmarks import HandLandmarks
from tests.builds import draw_jpeg
from tests.photos import needs_photos, photo_bytes, photos


@needs_photos
def test_every_reference_photograph_has_its_gesture_hand_inside_its_box(tmp_path):
    rows = list(photos())
    assert len(rows) == 39
    build(tmp_path, rows, photo_bytes)
    report = engine.run(stage_named("landmarks"), LandmarkOptions(threads=1), tmp_path, Execution(progress=False))
    table = pq.read_table(shard_path(tmp_path, "landmarks", 0)).to_pylist()
    assert report.failed == {}
    inside = [row for row in table if row["gesture_hand"] >= 0 and row["landmarks_in_box"] >= 0.9]
    assert len(inside) == 39, [(row["image_id"], row["landmarks_in_box"]) for row in table if row not in inside]
    for row in table:
        hands = np.array(row["hand_landmarks"])
        assert hands.shape == (len(row["handedness"]), 21, 3)
        assert set(row["handedness"]) <= {"Left", "Right"}
        assert all(0.5 <= score <= 1 for score in row["handedness_score"])


@needs_photos
def test_landmarks_do_not_depend_on_the_number_of_threads():
    rows = list(photos())[:6]
    columns = {name: [row[name] for row in rows] for name in ("gesture", "bboxes", "labels")}
    columns["image"] = [photo_bytes(row) for row in rows]
    alone, two = HandLandmarks(LandmarkOptions(threads=1)), HandLandmarks(LandmarkOptions(threads=2))
    assert alone(columns) == two(columns)
    alone.close()
    two.close()


def test_images_without_a_hand_are_kept_or_replaced_and_bad_ones_have_a_reason():
    columns = {"image": [draw_jpeg(1, 300), draw_jpeg(2)[:200], None]}
    columns |= {"gesture": ["ok"] * 3, "bboxes": [[[0.2, 0.2, 0.5, 0.5]]] * 3, "labels": [["ok"]] * 3}
    for no_hand, reason in (("keep", None), ("replace", "hand-not-found")):
        stage = HandLandmarks(LandmarkOptions(no_hand=no_hand, threads=1))
        output = stage(columns)
        stage.close()
        assert output["reason"] == [reason, "image-corrupt", "image-missing"]
        assert output["gesture_hand"] == [None if reason else -1, None, None]
    assert "hand-not-found" in HandLandmarks.final_reasons


def test_a_missing_model_file_is_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="handdata assets hand-landmarker"):
        HandLandmarks(LandmarkOptions())


def build(folder, rows, read):
    """Write a build of these rows: their manifest and images."""
    filled = [{field.name: row.get(field.name) for field in MANIFEST} | {"split": "train"} for row in rows]
    write_table(pa.Table.from_pylist(filled, schema=MANIFEST), folder / "manifest.parquet")
    for row in rows:
        path = image_path(folder, row["gesture"], row["image_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read(row))
