"""Photographs from the tests' Hub, real bursts, two gestures in one folder, and the 39 reference photographs."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

from handdata.builds.build import Build
from handdata.cli.photos import Photos
from handdata.gestures import Gesture, also
from handdata.photos import measure
from handdata.photos.manifest import make_manifest
from handdata.recipe import Recipe, override
from handdata.rows.decisions import Decisions
from handdata.vision.landmarks import Hands
from tests import ROOT
from tests.builds import draw_jpeg
from tests.handdata.photos import folders
from tests.handdata.photos.folders import Finder
from tests.handdata.photos.test_hands import drawn
from tests.hub_server import HubServer
from tests.photos import PHOTOS, needs_photos

VULCAN = {"vulcan": Gesture("making vulcan salute hand gesture", ("vulcan salute",))}
READ = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from huggingface_hub import HfApi
from handdata.photos import forms
HfApi().create_repo("tester/mine", repo_type="dataset")
HfApi().upload_folder(repo_id="tester/mine", folder_path=sys.argv[1], repo_type="dataset")
for place in ("hf:tester/mine", sys.argv[1]):
    found = forms.read(forms.resolved(place, "--photos"), ("vulcan",), Path(sys.argv[2]), "--photos")
    rows = [{**asdict(photo), "folder": "", "size": photo.path.stat().st_size} for photo in found.photos]
    print(json.dumps(rows))
"""


def made(folder, tmp_path, progress=False):
    source = {"kind": "photos", "images": (str(folder),)}
    recipe = override(Recipe("mine"), gesture=VULCAN, select={"gestures": ("vulcan",)}, source=source)
    with also(VULCAN):
        return make_manifest(folder, recipe, tmp_path / "source", Decisions(), progress).table.to_pylist()


@pytest.mark.parametrize("form", ["plain", "metadata_jsonl", "tar"])
def test_a_dataset_on_the_hub_has_the_photographs_of_the_same_folder(form, tmp_path):
    folder = folders.FORMS[form](tmp_path / "place")
    with HubServer() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", READ, str(folder), str(tmp_path / "copies")],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    of_hub, of_folder = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert {row.pop("source") for row in of_hub} == {"hf:tester/mine"}
    assert {row.pop("source") for row in of_folder} == {"place"}
    assert of_hub == of_folder and len(of_hub) == len(folders.NAMES)


def test_the_frames_of_a_burst_are_in_one_split(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "HandFinder", Finder)
    (tmp_path / "photos").mkdir()
    for number in range(30):
        data = draw_jpeg(number, size=200)
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(data)
        for frame in range(1, 4 if number < 3 else 1):  # three bursts of four
            (tmp_path / "photos" / f"{number:02d}-{frame}.jpg").write_bytes(_next_frame(data, frame))
    bursts = defaultdict(set)
    for row in made(tmp_path / "photos", tmp_path):
        bursts[row["member"][:2]].add((row["subject"], row["split"]))
    assert len(bursts) == 30 and all(len(of_burst) == 1 for of_burst in bursts.values())
    assert len({subject for of_burst in bursts.values() for subject, _ in of_burst}) == 30, "no others are joined"


class TwoGestures(Finder):
    """A finder that sees a fist in reddish pictures and a Vulcan salute in others."""

    def find(self, image: np.ndarray) -> Hands:
        red, green = (int(value) for value in image[2, 2, :2])
        hand = drawn("fist" if red > 128 else "vulcan", green)
        points = np.concatenate([hand, np.zeros((21, 1))], axis=1)
        return Hands(points[None].astype(np.float32), ("Right",), (0.9,))


def test_the_smaller_of_two_gestures_in_a_folder_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "HandFinder", TwoGestures)
    (tmp_path / "photos").mkdir()
    for number in range(30):
        fist = number < 14
        colour = Image.new("RGB", (64, 64), (200 if fist else 40, 8 * number, 0))
        colour.save(tmp_path / "photos" / f"{'fist' if fist else 'vulcan'}-{number:02d}.png")
    rows = made(tmp_path / "photos", tmp_path, progress=True)
    said = next(line for line in capsys.readouterr().err.splitlines() if "seem to show another gesture" in line)
    assert "of 30 photographs seem to show another gesture, alike among themselves: fist-00.png, fist-01.png" in said
    assert "vulcan-" not in said and "remove them, or put them into a folder of their own" in said
    differing = {row["member"] for row in rows if row["remarks"] == ["image:gesture-differs"]}
    assert len(differing) >= 13 and all(name.startswith("fist") for name in differing)


@pytest.mark.slow
@needs_photos
def test_the_reference_photographs_as_plain_jpegs_have_boxes_and_hands(tmp_path):
    files = sorted((PHOTOS / "images").rglob("*.jpg"))
    for path in files:
        (tmp_path / "photos" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "photos" / path.parent.name / path.name)
    gestures = tuple(sorted({path.parent.name for path in files}))
    flags = Photos(str(tmp_path / "photos"), tmp_path / "build", gestures)
    build = Build.start(flags.recipe(), flags.out)
    build.run("landmarks", progress=False)
    rows = [row for path in build.path.glob("landmarks/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == len(files) == 39
    assert all(row["reason"] is None for row in rows)
    boxes = pq.read_table(build.path / "manifest.parquet", columns=["gesture", "bboxes", "labels"]).to_pylist()
    assert all(row["gesture"] in row["labels"] and len(row["bboxes"]) == len(row["labels"]) for row in boxes)


def _next_frame(data: bytes, number: int) -> bytes:
    """Return a picture moved by some pixels and a little brighter."""
    with Image.open(io.BytesIO(data)) as image:
        moved = image.crop((number, number, image.width - number, image.height - 2 * number))
    buffer = io.BytesIO()
    ImageEnhance.Brightness(moved).enhance(1 + 0.03 * number).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
