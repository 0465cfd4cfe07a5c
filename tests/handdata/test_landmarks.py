import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from handdata.builds import engine
from handdata.landmarks import HandFinder, decode, gesture_hand
from handdata.recipe import LandmarkOptions
from handdata.rows.schema import MANIFEST
from handdata.rows.shards import image_path, shard_path, write_table
from handdata.stages import Execution, stage_named
from handdata.stages.landmarks import HandLandmarks
from tests import SHARED
from tests.builds import draw_jpeg

PHOTOS = SHARED / "photos"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="the reference photographs are not beside the checkout")


def square(x, y, size):
    """A hand of 21 points on the outline and inside of a square."""
    side = np.linspace(0, size, 21)
    return np.stack([x + side, y + np.roll(side, 7), np.zeros(21)], axis=1)


def test_the_hand_that_overlaps_most_with_a_box_of_the_gesture_makes_it():
    hands = np.array([square(0.1, 0.1, 0.2), square(0.6, 0.6, 0.2)])
    boxes, labels = [[0.1, 0.1, 0.2, 0.2], [0.58, 0.58, 0.24, 0.24]], ["no_gesture", "ok"]
    assert gesture_hand(hands, boxes, labels, "ok") == (1, 1.0)
    assert gesture_hand(hands, boxes, ["ok", "no_gesture"], "ok") == (0, 1.0)
    assert gesture_hand(hands, boxes, ["ok", "ok"], "ok")[0] == 0, "the tighter box"


def test_no_hand_no_box_or_no_overlap_gives_minus_one():
    hands = np.array([square(0.1, 0.1, 0.2)])
    assert gesture_hand(np.zeros((0, 21, 3)), [[0, 0, 1, 1]], ["ok"], "ok") == (-1, 0.0)
    assert gesture_hand(hands, [], [], "ok") == (-1, 0.0)
    assert gesture_hand(hands, [[0.5, 0.5, 0.1, 0.1]], ["ok"], "ok") == (-1, 0.0)
    assert gesture_hand(hands, [[0.1, 0.1, 0.2, 0.2]], ["like"], "ok") == (-1, 0.0)


def test_the_share_of_landmarks_inside_the_box_is_counted():
    hands = np.array([square(0.0, 0.0, 1.0)])
    _, share = gesture_hand(hands, [[0.0, 0.0, 0.5, 1.0]], ["ok"], "ok")
    assert share == pytest.approx(11 / 21)


def photos():
    """The reference photographs as rows: gesture, image id, boxes, labels."""
    for path in sorted((PHOTOS / "annotations").rglob("*.json")):
        for image_id, row in json.loads(path.read_text()).items():
            yield {"image_id": image_id, "gesture": path.stem, "bboxes": row["bboxes"], "labels": row["labels"]}


def photo_bytes(row):
    return (PHOTOS / "images" / row["gesture"] / f"{row['image_id']}.jpg").read_bytes()


@needs_photos
def test_every_reference_photograph_has_its_gesture_hand_inside_its_box(tmp_path):
    rows = list(photos())
    assert len(rows) == 39
    build(tmp_path, rows, photo_bytes)
    report = engine.run(stage_named("landmarks"), LandmarkOptions(threads=1), tmp_path, Execution(progress=False))
    table = pq.read_table(shard_path(tmp_path, "landmarks", 0)).to_pylist()
    assert report.failed == {}
    found = [row for row in table if row["gesture_hand"] >= 0 and row["landmarks_in_box"] >= 0.9]
    assert len(found) == 39, [(row["image_id"], row["landmarks_in_box"]) for row in table if row not in found]
    for row in table:
        hands = np.array(row["hand_landmarks"])
        assert hands.shape == (len(row["handedness"]), 21, 3)
        assert set(row["handedness"]) <= {"Left", "Right"} and all(0.5 <= one <= 1 for one in row["handedness_score"])


@needs_photos
def test_landmarks_do_not_depend_on_the_number_of_threads():
    rows = list(photos())[:6]
    columns = {name: [row[name] for row in rows] for name in ("gesture", "bboxes", "labels")}
    columns["image"] = [photo_bytes(row) for row in rows]
    alone, two = HandLandmarks(LandmarkOptions(threads=1)), HandLandmarks(LandmarkOptions(threads=2))
    assert alone(columns) == two(columns)
    alone.close()
    two.close()


@needs_photos
def test_a_photograph_of_64_px_is_enlarged_and_its_hand_found():
    row = next(row for row in photos() if row["gesture"] == "palm")
    image = Image.open(io.BytesIO(photo_bytes(row)))
    small = np.asarray(image.resize((64, 64 * image.height // image.width)))
    with HandFinder() as finder, HandFinder(min_side=1) as plain:
        found = finder.find(small)
        again = finder.find(small)
        assert len(found.landmarks) == 1
        large = plain.find(np.asarray(image)).landmarks
    assert np.array_equal(found.landmarks, again.landmarks)
    assert np.abs(found.landmarks[0, :, :2] - large[0, :, :2]).max() < 0.08, "fractions of the image, whatever its size"


@needs_photos
def test_handedness_is_the_persons_own_hand_in_an_unmirrored_photograph():
    row = next(row for row in photos() if row["gesture"] == "palm")
    image = decode(photo_bytes(row))
    with HandFinder() as finder:
        sides = {finder.find(image).handedness[0], finder.find(image[:, ::-1]).handedness[0]}
    assert sides == {"Left", "Right"}


def test_images_without_a_hand_are_kept_or_replaced_as_the_recipe_says_and_bad_ones_named():
    columns = {"image": [draw_jpeg(1, 300), draw_jpeg(2)[:200], None]}
    columns |= {"gesture": ["ok"] * 3, "bboxes": [[[0.2, 0.2, 0.5, 0.5]]] * 3, "labels": [["ok"]] * 3}
    for no_hand, reason in (("keep", None), ("replace", "hand-not-found")):
        stage = HandLandmarks(LandmarkOptions(no_hand=no_hand, threads=1))
        found = stage(columns)
        stage.close()
        assert found["reason"] == [reason, "image-corrupt", "image-missing"]
        assert found["gesture_hand"] == [None if reason else -1, None, None]
    assert "hand-not-found" in HandLandmarks.final_reasons


def test_a_missing_model_file_is_one_clear_sentence(tmp_path, monkeypatch):
    from handdata.errors import UserError

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
