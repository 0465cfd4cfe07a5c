"""`handdata render`: HaGRID's layout and oddities, the same bytes from the same seed, continued after a kill."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from handdata import recipe
from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.world import render
from handdata.world.render import draw
from handdata.world.tasks import Task, draw_task, plan
from tests import ROOT

SMALL = RenderOptions(gestures=("call", "palm"), train=2, validation=1, test=0, size=32, second_hand=0.5)
TINY = RenderOptions(gestures=("palm",), train=2, validation=0, test=0, size=32, oddities=False)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def annotations(folder: Path) -> dict[str, dict]:
    with zipfile.ZipFile(folder / "annotations.zip") as archive:
        return {name: json.loads(archive.read(name)) for name in archive.namelist()}


def truths(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    draw(SMALL, folder, progress=False)
    return folder


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(world, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "_PER_WORKER", 1)
    draw(SMALL, tmp_path / "two", workers=2, progress=False)
    assert digests(tmp_path / "two") == digests(world)
    first, second = (draw_task(Task("call", "train", 0, "whole"), replace(SMALL, seed=seed))[0] for seed in (0, 1))
    assert first != second


def test_an_interrupted_run_continues_to_the_same_end(world, tmp_path, monkeypatch):
    calls = []

    def dies(task, options):
        calls.append(task)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return draw_task(task, options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(render, "draw_task", dies)
        draw(SMALL, tmp_path, progress=False)
    assert not list(tmp_path.glob("*.zip"))
    calls.clear()
    monkeypatch.setattr(render, "draw_task", lambda task, options: (calls.append(task), draw_task(task, options))[1])
    draw(SMALL, tmp_path, progress=False)
    assert len(calls) == len(plan(SMALL)) - 5
    assert digests(tmp_path) == digests(world)


def test_a_finished_world_is_kept_and_other_options_redraw_it(tmp_path, monkeypatch):
    draw(TINY, tmp_path, progress=False)
    before = digests(tmp_path)
    monkeypatch.setattr(render, "draw_task", lambda *_: pytest.fail("drawn again"))
    draw(TINY, tmp_path, progress=False)
    assert digests(tmp_path) == before
    monkeypatch.undo()
    draw(replace(TINY, gestures=("stop",), train=1), tmp_path, progress=False)
    assert [row["gesture"] for row in truths(tmp_path)] == ["stop"]
    assert not (tmp_path / "palm.zip").exists()


def test_archives_that_it_did_not_make_are_left_alone(tmp_path):
    (tmp_path / "call.zip").write_bytes(b"forty gigabytes of HaGRID")
    with pytest.raises(UserError, match=r"holds call.zip, which 'render' did not make"):
        draw(TINY, tmp_path, progress=False)
    assert (tmp_path / "call.zip").read_bytes() == b"forty gigabytes of HaGRID"


def test_records_have_the_fields_of_v2_1m(world):
    fields = {"bboxes", "labels", "user_id", "hand_landmarks", "meta"}
    for name, records in annotations(world).items():
        for image_id, record in records.items():
            assert fields <= set(record) <= fields | {"united_bbox", "united_label"}, name
            assert len(image_id) == 36
            assert len(record["user_id"]) == 32
            assert int(record["user_id"], 16) >= 0
            assert len(record["bboxes"]) == len(record["labels"]) == len(record["hand_landmarks"])
            assert all(len(box) == 4 for box in record["bboxes"])
            assert set(record["meta"]) == {"age", "gender", "race"}


def test_some_annotated_pictures_are_missing_and_some_show_no_gesture(world):
    names = set(zipfile.ZipFile(world / "call.zip").namelist())
    records = annotations(world)["annotations/train/call.json"]
    missing = [image_id for image_id in records if f"call/{image_id}.jpg" not in names]
    assert len(missing) == 1
    assert [record["labels"] for record in records.values()].count(["no_gesture"]) == 1
    assert "annotations/train/.ipynb_checkpoints/call-checkpoint.json" in annotations(world)


def test_people_stay_in_one_split_and_come_back(world):
    users: dict[str, list[str]] = {}
    for truth in truths(world):
        users.setdefault(truth["user_id"], []).append(truth["split"])
    assert all(len(set(splits)) == 1 for splits in users.values())
    assert max(map(len, users.values())) >= 2


def test_the_truth_has_a_row_per_picture_and_agrees_with_the_annotations(world):
    rows = {row["image_id"]: row for row in truths(world)}
    for gesture in ("call", "palm"):
        with zipfile.ZipFile(world / f"{gesture}.zip") as archive:
            assert archive.testzip() is None
            for name in archive.namelist():
                row = rows.pop(Path(name).stem)
                record = annotations(world)[f"annotations/{row['split']}/{gesture}.json"][row["image_id"]]
                assert record["bboxes"] == [hand["box"] for hand in row["hands"]]
                assert all(len(hand["joints_3d"]) == 21 for hand in row["hands"])
                assert Image.open(io.BytesIO(archive.read(name))).size == (32, 32)
    assert not rows


@pytest.mark.parametrize("deflated", [False, True])
def test_the_zip64_variant_has_zip64_structures_and_the_same_pictures(world, tmp_path, deflated):
    draw(replace(SMALL, zip64=True, deflated=deflated), tmp_path, progress=False)
    data = (tmp_path / "palm.zip").read_bytes()
    assert b"PK\x06\x06" in data and b"PK\x06\x07" in data
    assert b"PK\x06\x06" not in (world / "palm.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "palm.zip") as ours, zipfile.ZipFile(world / "palm.zip") as plain:
        assert {info.compress_type for info in ours.infolist()} == {8 if deflated else 0}
        assert {name: ours.read(name) for name in ours.namelist()} == {n: plain.read(n) for n in plain.namelist()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gestures": ("plam",)}, "did you mean 'palm'"),
        ({"gestures": ("xsign",)}, "'xsign' cannot be drawn"),
        ({"train": -1}, "--train is -1"),
        ({"train": 0, "validation": 0, "test": 0}, "all 0"),
        ({"size": 31}, "--size is 31"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        draw(replace(SMALL, **change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_draws_and_exits_with_2_after_a_mistake(tmp_path):
    words = [sys.executable, "-m", "handdata", "render", "--out", str(tmp_path), "--size", "32", "--gestures", "ok"]
    counts = ["--train", "1", "--validation", "0", "--test", "0"]
    done = subprocess.run([*words, *counts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 pictures of 1 gestures are in {tmp_path}\n"
    wrong = subprocess.run([*words, "--train", "-4"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == ["handdata: --train -4 must be at least 0"]
    dry = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert dry.stdout.startswith("60 pictures of 1 gestures at 32 px")


def test_the_shipped_mini_recipe_can_be_drawn():
    mini = recipe.load(recipe.find("mini"))
    assert mini.source.kind == "render"
    render.check(replace(mini.render, gestures=mini.select.gestures))
    assert mini.render.train >= mini.select.train * (1 + mini.select.spare)
