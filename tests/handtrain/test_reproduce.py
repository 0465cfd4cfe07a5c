import json
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import UserError
from handtrain.cli.flags import Reproduce
from handtrain.evaluation import evaluate
from handtrain.options import EvaluateOptions, GenerateOptions
from handtrain.presets import options_of
from handtrain.reproduce import reproduce
from tests.handtrain.evaluation.test_hands import landmarker


@pytest.fixture
def arguments(base: Path, dataset: Path, tmp_path: Path, monkeypatch) -> dict[str, Any]:
    model, cache = landmarker(), tmp_path / "cache"
    cache.mkdir()
    (cache / "hand_landmarker.task").symlink_to(model)
    monkeypatch.setenv("HAND1000_CACHE", str(cache))
    return {
        "dataset": str(dataset),
        "base": str(base),
        "out": tmp_path / "out",
        "gestures": ("call",),
        "preset": "smoke",
        "split": "validation",
        "generate": GenerateOptions(steps=2),
        "evaluate": EvaluateOptions(bootstrap=2, clip="none", variants="standard"),
        "device": "cpu",
    }


def test_the_chain_makes_everything_and_a_second_call_makes_nothing(arguments, monkeypatch):
    out = arguments["out"]
    assert reproduce(**arguments) == out / "report.html"
    run = out / "call"
    assert (
        len(list((run / "images" / "base").glob("*.png"))) == len(list((run / "images" / "tuned").glob("*.png"))) == 2
    )
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["gesture"] == "call"
    assert evaluation["metrics"]["hand-found rate"]["standard"]["difference"]["value"] == 0
    assert [evaluation[side]["images"] for side in ("real", "fake", "base")] == [2, 2, 2]
    page = (out / "report.html").read_text()
    assert "call: call" in page and "hand-found rate" in page and page.count("data:image/jpeg") >= 4
    assert (out / "report.md").is_file()
    monkeypatch.setattr(evaluate, "evaluate", lambda **_: pytest.fail("it is evaluated again"))
    assert reproduce(**arguments) == out / "report.html"


def test_a_dry_run_prints_the_cost_and_writes_nothing(arguments, capsys):
    assert Reproduce(**arguments, dry_run=True)() == 0
    printed = capsys.readouterr().out
    assert "call: 4 images, base and tuned, 16 passes of the UNet" in printed
    assert "all gestures: 4 images" in printed and "PFLOP" in printed
    assert not arguments["out"].exists()


def test_every_option_of_training_has_a_flag():
    command = Reproduce.defaults(["--preset", "fast", "--train.unet-lr", "1e-5", "--running.micro-batch=2"])
    assert command.train == options_of("fast") and command.given == ("unet_lr", "micro_batch")


def test_a_missing_gesture_is_an_error_before_the_first_image(arguments):
    with pytest.raises(UserError, match="no configuration 'palm'"):
        reproduce(**{**arguments, "gestures": ("call", "palm")})
    assert not arguments["out"].exists()
    with pytest.raises(UserError, match="--gestures is empty"):
        reproduce(**{**arguments, "gestures": ()})


def test_the_base_of_a_training_with_poses_is_drawn_without_one(arguments):
    generate = GenerateOptions(steps=2, pose="none", pose_guidance=1.5)
    with pytest.raises(UserError, match=r"--generate.pose and --generate.pose-guidance need a training with --pose"):
        reproduce(**{**arguments, "generate": generate})
    assert not arguments["out"].exists()
    reproduce(**{**arguments, "generate": generate}, pose="map", lam=1.0)
    assert (arguments["out"] / "report.html").is_file()
