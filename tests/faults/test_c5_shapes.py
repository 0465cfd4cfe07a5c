"""Pictures of extreme shapes: refused in a build, searched and resized elsewhere without an abort or gigabytes."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handdata.builds import engine
from handdata.errors import Unfinished
from handdata.recipe import ImageOptions
from handdata.rows.schema import REASONS
from handdata.sources.jpeg import store
from handdata.stages import Execution, stage_named
from handdata.stages.facts import ImageFacts
from handdata.stages.fetch import FINAL_REASONS
from handdata.vision.clip import _middle
from handdata.vision.pixels import UnreadableImage
from handtrain.data.crops import window
from handtrain.evaluation.image_sets import Preparation
from tests import ROOT
from tests.builds import make_build
from tests.handtrain.evaluation.test_hands import landmarker
from tests.pictures import picture, saved


def flat(width: int, height: int, format: str = "PNG") -> bytes:
    return saved(Image.new("RGB", (width, height), (90, 80, 70)), format)


@pytest.mark.parametrize("size", [(5000, 40), (40, 5000), (9000, 500), (15, 15), (1, 40_000), (3, 3)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_c5_extreme_shapes_are_refused_for_good_with_their_reason(size, format):
    with pytest.raises(UnreadableImage) as raised:
        store(flat(*size, format), ImageOptions())
    assert raised.value.reason == "odd-shape" and f"{size[0]} x {size[1]}" in str(raised.value)
    assert "odd-shape" in REASONS and "odd-shape" in FINAL_REASONS


@pytest.mark.parametrize("size", [(16, 16), (640, 40), (60, 900)])
def test_c5_wide_and_small_photographs_are_kept(size):
    assert (store(flat(*size), ImageOptions()).orig_width, store(flat(*size), ImageOptions()).orig_height) == size


FIND = """
import sys
import numpy as np
from handdata.vision.landmarks import HandFinder
with HandFinder() as finder:
    for size in sys.argv[1:]:
        width, height = map(int, size.split("x"))
        assert len(finder.find(np.full((height, width, 3), 90, np.uint8)).scores) == 0
print("searched")
"""


def test_c5_the_finder_searches_every_shape_without_an_abort():
    landmarker()
    sizes = ["9000x40", "1x700", "40000x300", "2x1", "300x33000"]
    command = [sys.executable, "-c", FIND, *sizes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout) == (0, "searched\n"), done.stderr[-500:]


@pytest.mark.parametrize("size", [(1, 50_000), (70_000, 2), (3, 90_000)])
def test_c5_the_crop_of_an_extreme_shape_needs_little_memory(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = Preparation(512, "center")(flat(*size), None)
    assert pixels.shape == (512, 512, 3) and (pixels == (90, 80, 70)).all()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 100, f"{grown:.0f} MiB"


def test_c5_a_crop_from_a_part_equals_the_crop_of_the_whole(monkeypatch):
    image = Image.fromarray(picture(40, 700, seed=5))
    cut = window(40, 700, 64)
    whole = np.asarray(cut.crop(image), dtype=int)
    monkeypatch.setattr("handtrain.data.crops.MOST_RESIZED", 0)
    assert np.abs(np.asarray(cut.crop(image), dtype=int) - whole).max() <= 8  # interpolated between other pixels
    assert np.abs(np.asarray(cut.crop(image), dtype=int) - whole).mean() <= 1


def test_c5_clip_sees_the_middle_of_an_extreme_shape_and_all_of_others():
    assert _middle(np.zeros((1, 60_000, 3), np.uint8)).shape == (1, 8, 3)
    image = np.arange(2 * 100 * 3, dtype=np.uint8).reshape(100, 2, 3)
    assert np.array_equal(_middle(image), image[42:58])
    assert _middle(np.zeros((30, 400, 3), np.uint8)).shape == (30, 400, 3)


class Dying(ImageFacts):
    """A stage whose process is killed at the first shard."""

    def __call__(self, columns: dict) -> dict:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_c5_a_worker_that_dies_names_the_images_that_it_was_at(tmp_path: Path):
    build = make_build(tmp_path, 300)
    stage = replace(stage_named("facts"), implementation=f"{__name__}:Dying")
    with pytest.raises(Unfinished, match="was killed") as raised:
        engine.run(stage, None, build, Execution("local", 2, progress=False))
    ids = engine.read_manifest(build)["image_id"].to_pylist()
    assert f"{ids[0]} to {ids[255]}" in str(raised.value) or f"{ids[256]} to {ids[299]}" in str(raised.value)
    assert engine.run(stage_named("facts"), None, build, Execution(progress=False)).rows == 300
    assert not list((build / "facts").glob(".*"))
