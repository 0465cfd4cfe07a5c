import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from handdata.errors import UserError
from handdata.files import sha256_of
from handdata.huggingface import HubName
from handtrain.cli.flags import Evaluate
from handtrain.data.image_folder import split_of
from handtrain.evaluation import evaluate as evaluating
from handtrain.evaluation import hands
from handtrain.evaluation.evaluate import evaluate
from handtrain.evaluation.image_sets import folder_set
from handtrain.evaluation.scores import Scores
from handtrain.evaluation.table import LOWER_IS_BETTER
from handtrain.method.gesture import normalised
from handtrain.options import EvaluateOptions
from tests import ROOT
from tests.handtrain.evaluation.test_hands import landmarker, photographs
from tests.handtrain.inceptions import write_inception_fid, write_inception_torchvision

BLUR = 10  # pixels, of 256
NO_NETWORKS = EvaluateOptions(bootstrap=20, clip="none", variants="standard")


@pytest.fixture(scope="module")
def fid_weights(tmp_path_factory) -> Path:
    return write_inception_fid(tmp_path_factory.mktemp("weights") / "fid.pth")


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """Square photographs of hands, nine of them."""
    landmarker()
    folder = tmp_path_factory.mktemp("squares")
    files = [file for file in photographs() if Image.open(file).size[0] == Image.open(file).size[1]][:9]
    for number, file in enumerate(files):
        Image.open(file).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def blurred(squares, tmp_path_factory) -> Path:
    """The same with blurred hands, of which two of nine are still detected."""
    landmarker()
    folder = tmp_path_factory.mktemp("blurred")
    with hands.hand_finder(hands.DETECTION) as finder:
        for file in sorted(squares.iterdir()):
            image = Image.open(file)
            for hand in hands.find(finder, np.asarray(image)):
                points = hand.points()[:, :2]
                box = [int(v) for v in (*(points.min(axis=0) - 25), *(points.max(axis=0) + 25))]
                box = [max(0, box[0]), max(0, box[1]), min(256, box[2]), min(256, box[3])]
                image.paste(image.crop(box).filter(ImageFilter.GaussianBlur(BLUR)), box)
            image.save(folder / file.name)
    return folder


def scores_of(real: Path, fake: Path, tmp_path: Path, **changes: Any) -> Scores:
    places = {"real": real, "fake": fake, "gesture": "palm", "device": "cpu", "cache": tmp_path / "c"}
    return evaluate(options=NO_NETWORKS, **{**places, **changes})


@pytest.mark.slow
def test_blurred_hands_score_worse_on_every_hand_metric(fid_weights, squares, blurred, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating.metrics, "LEAST_HANDS", 2)
    points = _normalised(squares)
    judge = evaluating.metrics.GestureJudge(np.array(points), np.array(["palm"] * len(points)), 10.0)
    monkeypatch.setattr(evaluating, "_judge", lambda *_: judge)
    scores = scores_of(squares, squares, tmp_path, base=blurred, inception_fid=fid_weights, bootstrap=3)
    for name in ("FID-H", "KID-H", "HAND-CONF", "hand-found rate", "gesture accuracy", "landmark distance"):
        score = scores[name]
        worse = score.base.value - score.value
        assert (worse if LOWER_IS_BETTER[name] else -worse) > 0, f"{name}: {score}"
        assert score.difference.value == pytest.approx(-worse)


def _normalised(folder: Path) -> list[np.ndarray]:
    with hands.hand_finder(hands.DETECTION) as finder:
        detected = [hands.find(finder, np.asarray(Image.open(file))) for file in sorted(folder.iterdir())]
    return [normalised(hand).ravel() for of_image in detected for hand in of_image]


def test_both_variants_are_computed_with_everything_that_explains_them(fid_weights, squares, tmp_path):
    real = _subset(squares, tmp_path / "real", 4)
    fake = _subset(squares, tmp_path / "fake", 3)
    files = {
        "inception_fid": fid_weights,
        "inception_torchvision": write_inception_torchvision(tmp_path / "torchvision.pth"),
    }
    record = scores_of(real, fake, tmp_path, variants="both", bootstrap=8, **files).record
    assert record["metrics"]["FID-H"]["reference"].get("unit", "images with hands") == "images with hands"
    for name in ("FID", "KID", "KID-H", "HAND-CONF", "hand-found rate"):
        for variant in ("standard", "reference"):
            entry = record["metrics"][name][variant]
            assert entry["fake"]["low"] <= entry["fake"]["value"] <= entry["fake"]["high"], (name, variant, entry)
    assert record["metrics"]["FID"]["standard"]["n"] == {"real": 4, "fake": 3}
    assert record["metrics"]["FID"]["standard"]["fake"]["bias"] >= 0
    assert record["metrics"]["KID"]["standard"]["fake"]["subset"] == 3
    biased, unbiased = (record["metrics"]["KID"][name]["fake"]["value"] for name in ("reference", "standard"))
    assert biased > unbiased
    assert record["weights"]["inception-fid"] == sha256_of(files["inception_fid"])
    assert set(record["weights"]) == {"inception-fid", "inception-torchvision", "hand-landmarker"}
    assert record["preparation"] == "short side to 256 px (bilinear, antialiased), center crop to 256 x 256"
    assert record["hands"]["detection"] == {"standard": 0.5, "reference": 0.0, "crops": 0.5}
    assert record["metrics"]["CLIP score"]["standard"] == {"not_computed": "--clip none"}


def _subset(folder: Path, target: Path, count: int) -> Path:
    target.mkdir()
    for file in sorted(folder.iterdir())[:count]:
        shutil.copy(file, target)
    return target


def test_a_metric_without_weights_is_not_computed_and_the_others_are(squares, tmp_path, monkeypatch):
    empty = tmp_path / "cache"
    empty.mkdir()
    shutil.copy(landmarker(), empty)
    monkeypatch.setenv("HAND1000_CACHE", str(empty))
    entries = scores_of(squares, squares, tmp_path).record["metrics"]
    assert "handdata assets inception-fid" in entries["FID"]["standard"]["not_computed"]
    assert "handdata assets inception-fid" in entries["KID-H"]["standard"]["not_computed"]
    assert entries["HAND-CONF"]["standard"]["fake"]["value"] > 0.9
    (empty / "hand_landmarker.task").unlink()
    entries = scores_of(squares, squares, tmp_path).record["metrics"]
    assert "handdata assets hand-landmarker" in entries["HAND-CONF"]["standard"]["not_computed"]
    assert "handdata assets hand-landmarker" in entries["gesture accuracy"]["standard"]["not_computed"]


def test_a_set_compared_with_itself_is_at_distance_zero(fid_weights, squares, tmp_path):
    real = _subset(squares, tmp_path / "real", 4)
    entries = scores_of(real, real, tmp_path, inception_fid=fid_weights, bootstrap=2).record["metrics"]
    assert entries["FID"]["standard"]["fake"]["value"] == pytest.approx(0, abs=1e-6)
    assert entries["FID-H"]["standard"]["fake"]["value"] == pytest.approx(0, abs=1e-6)
    assert entries["KID"]["standard"]["fake"]["value"] <= 0  # unbiased: the pairs of an image with itself are left out


def test_one_image_is_a_reason_and_not_a_number(fid_weights, squares, tmp_path):
    one = _subset(squares, tmp_path / "one", 1)
    real = _subset(squares, tmp_path / "real", 2)
    entries = scores_of(real, one, tmp_path, inception_fid=fid_weights).record["metrics"]
    assert entries["FID"]["standard"] == {"not_computed": "1 images on the fake side: a spread needs two"}
    assert entries["hand-found rate"]["standard"]["n"]["fake"] == 1
    assert entries["landmark distance"]["standard"]["not_computed"].endswith("fewer than 200")


def test_the_command_prints_a_table_and_writes_the_same_as_json(squares, tmp_path, capsys):
    fake = _subset(squares, tmp_path / "fake", 3)
    (fake / "broken.png").write_bytes(b"nothing")
    out = tmp_path / "deep" / "evaluation.json"
    details = tmp_path / "elsewhere" / "details.jsonl"
    places = {"gesture": "palm", "device": "cpu", "cache": tmp_path / "c", "json": out, "details": details}
    assert Evaluate(str(squares), fake, options=NO_NETWORKS, **places)() == 0
    printed, written = capsys.readouterr().out, json.loads(out.read_text())
    lines = [json.loads(line) for line in details.read_text().splitlines()]
    assert [line["image"] for line in lines if line["side"] == "fake"] == ["00.png", "01.png", "02.png"]
    assert sum(line["side"] == "real" for line in lines) == 9
    fake_hands = [hand for line in lines if line["side"] == "fake" for hand in line["hands"]]
    assert len(fake_hands) == written["metrics"]["HAND-CONF"]["standard"]["n"]["fake"]
    assert np.mean([hand["confidence"] for hand in fake_hands]) == pytest.approx(
        written["metrics"]["HAND-CONF"]["standard"]["fake"]["value"], abs=1e-4
    )
    assert {hand["gesture"] for hand in fake_hands} == {None}  # no --landmarks, so no gesture is known
    assert np.shape(fake_hands[0]["landmarks"]) == (21, 3)
    assert "hand-found rate" in printed and "fake: 1 left out: cannot be decoded (broken.png)" in printed
    assert written["fake"]["excluded"] == {"cannot be decoded": ["broken.png"]}
    assert written["fake"]["sha256"] == folder_set(fake, "--fake").fingerprint()


def test_real_is_a_folder_or_a_dataset_with_a_split(tmp_path):
    assert split_of("hf:someone/hands@v1:test", "--real") == (HubName("someone/hands", "v1"), "test")
    assert split_of(f"{tmp_path}:validation", "--real") == (tmp_path, "validation")
    assert split_of("data/photographs", "--real") is None
    with pytest.raises(UserError, match="lacks the split of the dataset: write hf:someone/hands:test"):
        split_of("hf:someone/hands", "--real")


def test_a_dataset_needs_the_gesture(squares, tmp_path):
    with pytest.raises(UserError, match="needs --gesture"):
        evaluate(real=f"{tmp_path}:test", fake=squares, options=NO_NETWORKS, device="cpu")


def test_the_hand_crop_needs_boxes(squares, tmp_path):
    with pytest.raises(UserError, match="has no boxes"):
        scores_of(squares, squares, tmp_path, crop="hand")


def test_another_seed_moves_the_intervals_of_means_and_leaves_their_values(squares, tmp_path):
    first, other, again = (scores_of(squares, squares, tmp_path, seed=seed)["HAND-CONF"] for seed in (0, 1, 0))
    assert first == again
    assert first.value == other.value and first.interval != other.interval


def test_an_unknown_option_is_an_error_that_names_the_nearest(squares):
    with pytest.raises(UserError, match="unknown option 'bootstraps': did you mean 'bootstrap'"):
        evaluate(real=squares, fake=squares, bootstraps=3)


@pytest.mark.slow
def test_the_forward_pass_is_five_of_our_functions_below_evaluate(fid_weights, squares, tmp_path):
    """The chain is evaluate, extract, the rows of a shard, Network.__call__, run."""
    chains = set()

    def forward(*_: Any) -> None:
        names, frame = [], sys._getframe()
        while frame := frame.f_back:
            code = frame.f_code
            if Path(code.co_filename).is_relative_to(ROOT / "handtrain") and not code.co_name.startswith("<"):
                names.append(code.co_name)
        chains.add(tuple(reversed(names)))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(forward)
    try:
        files = {"inception_fid": fid_weights, "inception_torchvision": write_inception_torchvision(tmp_path / "t.pth")}
        real = _subset(squares, tmp_path / "real", 2)
        scores_of(real, real, tmp_path, variants="both", bootstrap=2, **files)
    finally:
        hook.remove()
    assert chains == {("evaluate", "extract", "rows", "__call__", "run")}
