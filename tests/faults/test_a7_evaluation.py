"""An evaluation uses every image that can be decoded, and its intervals do not claim certainty."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from handtrain.evaluation import bootstrap, table
from handtrain.evaluation.bootstrap import Draws
from handtrain.evaluation.evaluate import _about, _preparation, _sides
from handtrain.evaluation.features import HAND, Rows
from handtrain.evaluation.image_sets import folder_set
from handtrain.evaluation.scores import Estimate, Scores
from handtrain.options import EvaluateOptions
from tests.pictures import picture, saved


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def of_sizes(path: Path, *sizes: tuple[int, int]) -> Path:
    return folder(path, {f"{i:02d}.png": saved(picture(*size, seed=i), "PNG") for i, size in enumerate(sizes)})


@pytest.mark.parametrize(("sizes", "side"), [
    ([(512, 512)] * 3 + [(768, 1344), (1344, 768)], 512),
    ([(60 + 8 * i, 90 - 4 * i) for i in range(7)], 70),
    ([(64, 64), (512, 512)], 64),
    ([(40, 48)] * 4, 40),
])  # fmt: skip
def test_a7_images_of_all_sizes_are_kept_and_prepared_alike(tmp_path, sizes, side):
    fake = of_sizes(tmp_path / "fake", *sizes)
    base = of_sizes(tmp_path / "base", *reversed(sizes))
    real = of_sizes(tmp_path / "real", (100, 80), (90, 300))
    sides = _sides(str(real), fake, base, None)
    assert {name: len(images.members) for name, images in sides.items()} == {
        "real": 2, "fake": len(sizes), "base": len(sizes)
    }  # fmt: skip
    assert not sides["fake"].excluded and not sides["base"].excluded
    assert _about(sides["fake"])["sizes"] == len(set(sizes))
    prepare = _preparation(EvaluateOptions(), {}, sides)
    assert prepare.size == side
    for images in sides.values():
        shapes = {prepare(images.read(member), member.box).shape for member in images.members}
        assert shapes == {(side, side, 3)}


def test_a7_several_sizes_are_named_in_the_table():
    record = {"metrics": {}, "fake": {"sizes": 3, "one_colour": 2}, "base": {"sizes": 1}, "real": {"sizes": 9}}
    assert str(Scores(record)).splitlines()[1:] == ["fake: 2 images are of one colour", "fake: images of 3 sizes"]


def test_a7_images_with_long_texts_are_decoded(tmp_path):
    for number, (text, compressed) in enumerate(
        [("y" * 5_000_000, True), ("z" * 20_000_000, True), ("é" * 4_000_000, False)]
    ):
        info = PngInfo()
        info.add_itxt("workflow", text, zip=compressed)
        info.add_text("prompt", text[:2_000_000].replace("é", "e"), zip=compressed)
        info.add_text("small", "kept")
        Image.fromarray(picture()).save(tmp_path / f"{number}.png", pnginfo=info)
    images = folder_set(tmp_path, "--fake")
    assert len(images.members) == 3 and not images.excluded


def test_a7_images_of_one_colour_are_counted_and_kept(tmp_path):
    files = {
        "black.png": Image.new("RGB", (20, 20)), "teal.png": Image.new("RGB", (20, 20), (0, 90, 90)),
        "grey.png": Image.new("L", (20, 20), 130), "clear.png": Image.new("RGBA", (20, 20), (200, 0, 0, 0)),
        "picture.png": Image.fromarray(picture(20, 20)),
    }  # fmt: skip
    images = folder_set(folder(tmp_path, {name: saved(image, "PNG") for name, image in files.items()}), "--fake")
    about = _about(images)
    assert (about["images"], about["black"], about["one_colour"]) == (5, 1, 3)


def rows(found: list[int]) -> Rows:
    """Rows of hands: so many in each image."""
    owner = np.repeat(np.arange(len(found)), found)
    return Rows(np.full((len(owner), HAND), 0.5, np.float32), owner, len(found))


def comparison(real: int, fake: int) -> table.Comparison:
    draws = Draws.make(real, fake, 40, 0)
    return table.Comparison(draws, draws, 0, None, "no judge")


@pytest.mark.parametrize(("right", "count"), [(12, 12), (0, 7), (2, 2), (5, 9), (1, 300)])
def test_a7_the_interval_of_a_share_is_wilsons(right, count):
    found = [1] * right + [0] * (count - right)
    entry = table.found_rate({"real": rows([1, 1, 1]), "fake": rows(found)}, comparison(3, count))["fake"]
    for limit in (entry["low"], entry["high"]):  # where the score test is just significant
        if 0 < limit < 1:
            assert abs(right / count - limit) == pytest.approx(1.959964 * math.sqrt(limit * (1 - limit) / count))
    assert entry["low"] <= entry["value"] <= entry["high"] and entry["high"] - entry["low"] > 0.005
    assert entry["low"] == pytest.approx(0) if right == 0 else entry["low"] > 0
    assert entry["high"] == pytest.approx(1) if right == count else entry["high"] < 1


def test_a7_the_gesture_accuracy_is_a_share_too(monkeypatch):
    judged = table.Comparison(*[comparison(4, 4).draws] * 2, 0, "palm", object())
    monkeypatch.setattr(table, "named", lambda hands, _: ["palm"] * len(hands))
    entry = table.gesture_accuracy({"real": rows([1, 2, 1, 1]), "fake": rows([1, 1, 2, 1])}, judged)
    assert entry["fake"]["value"] == 1.0 and entry["fake"]["low"] == pytest.approx(4 / (4 + 1.959964**2))


@pytest.mark.parametrize(("tuned", "base"), [([1] * 9, [1] * 9), ([1] * 9, [0] * 9), ([1, 1, 0, 1], [0, 1, 0, 1])])
def test_a7_a_difference_of_shares_is_never_a_point(tuned, base):
    sides = {"real": rows([1, 1]), "fake": rows(tuned), "base": rows(base)}
    entry = table.found_rate(sides, comparison(2, len(tuned)))["difference"]
    assert entry["low"] < entry["high"] and entry["low"] <= entry["value"] <= entry["high"]
    assert entry["low"] >= -1 and entry["high"] <= 1


def test_a7_the_interval_of_a_difference_covers_the_truth_in_about_95_percent():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(600):
        common = rng.random(40) < 0.6
        tuned, base = (np.where(rng.random(40) < 0.5, common, rng.random(40) < share) for share in (0.9, 0.7))
        low, high = bootstrap.share_difference(tuned, base)
        hits += low <= 0.1 <= high  # half of the images differ, by 0.2
    assert 0.92 <= hits / 600 <= 0.99


@pytest.mark.parametrize("found", [[1], [2], [0]])
def test_a7_one_image_has_no_interval(found):
    sides = {"real": rows([1, 1, 2]), "fake": rows(found)}
    share = table.found_rate(sides, comparison(3, 1))["fake"]
    assert (share["value"], share["low"], share["high"]) == (float(found[0] > 0), None, None)
    confidence = table.hand_confidence(sides, comparison(3, 1))
    if found[0]:
        assert (confidence["fake"]["low"], confidence["fake"]["high"]) == (None, None)
    assert confidence["real"]["low"] is not None
    assert Estimate.of(share).interval is None
    json.dumps([share, confidence], allow_nan=False)


def test_a7_one_image_with_hands_among_many_has_no_interval_of_the_confidence():
    sides = {"real": rows([1, 1]), "fake": rows([0, 2, 0, 0])}
    assert table.hand_confidence(sides, comparison(2, 4))["fake"]["low"] is None
    assert table.found_rate(sides, comparison(2, 4))["fake"]["low"] > 0
