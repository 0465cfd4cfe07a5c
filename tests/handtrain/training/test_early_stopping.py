"""Evaluation during training: its scores, the best weights, early stopping; an interruption changes nothing."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from handdata.errors import Unfinished, UserError
from handtrain.presets import TrainOptions, check, options_of
from handtrain.reporting import charts
from handtrain.training import early_stopping, validation
from handtrain.training.early_stopping import BEST_FILE, Judge, check_judging

UNET = "unet/diffusion_pytorch_model.safetensors"
JUDGED = {"evaluate_every": 1, "evaluation_images": 2, "unet_epochs": 4, "sample_steps": 1}  # 2 images a step: 4 steps
SCORES = [0.1, 0.3, 0.2, 0.3, 0.0]  # after steps 0 to 4; the best first at step 1


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the hand metrics by SCORES in turn; return the numbers of images that were evaluated."""
    sizes: list[int] = []

    def hand_metrics(images: list[np.ndarray], gesture: str, judge: Judge) -> dict[str, float]:
        assert gesture == "call"
        sizes.append(len(images))
        assert all(image.shape == (16, 16, 3) for image in images)
        return {"hand_found": SCORES[len(judge.scores)], "gesture_accuracy": math.nan}

    monkeypatch.setattr(validation, "hand_metrics", hand_metrics)
    return sizes


def _evaluations(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "evaluation" in line]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / UNET)


def test_the_best_weights_become_the_model(train: Callable[..., Any], tmp_path: Path, scored: list[int]) -> None:
    train(tmp_path / "a", best_by="hand_found", keep="best", **JUDGED)
    evaluations = _evaluations(tmp_path / "a")
    assert [(line["step"], line["evaluation"]["hand_found"]) for line in evaluations] == list(enumerate(SCORES))
    assert all(line["evaluation"]["gesture_accuracy"] is None for line in evaluations)
    assert all(line["evaluation"]["validation_loss"] > 0 for line in evaluations)
    assert scored == [2] * 5
    about = json.loads((tmp_path / "a" / "model" / "hand1000.json").read_text())
    assert about["training"]["kept"] == {"step": 1, "by": "hand_found"}
    best = load_file(tmp_path / "a" / BEST_FILE)
    model = _weights(tmp_path / "a" / "model")
    assert all(torch.equal(best[name], model[name]) for name in model)
    train(tmp_path / "b", best_by="hand_found", **JUDGED)  # the same run, its last weights
    assert any(not torch.equal(weight, model[name]) for name, weight in _weights(tmp_path / "b" / "model").items())


def test_training_ends_without_improvement(train: Callable[..., Any], tmp_path: Path, scored: list[int]) -> None:
    train(tmp_path, best_by="hand_found", patience=2, **JUDGED)
    assert [line["step"] for line in _evaluations(tmp_path)] == [0, 1, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["stage"] == 3 and "loss" in line] == [0, 1, 2]
    assert (tmp_path / "model").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"keep": "best"}, {"patience": 2}])
def test_an_interrupted_run_has_the_same_scores_and_weights(
    train: Callable[..., Any],
    tmp_path: Path,
    scored: list[int],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    options = {"best_by": "hand_found", "checkpoint_minutes": 0.0, **JUDGED, **changes}
    train(tmp_path / "whole", **options)
    real = early_stopping.Judge.score
    for cut in range(5):

        def dying(self: Judge, step: int, *arguments: Any, cut: int = cut) -> None:
            real(self, step, *arguments)
            if step == cut:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(early_stopping.Judge, "score", dying)
            try:
                train(tmp_path / str(cut), **options)
            except KeyboardInterrupt:
                assert not (tmp_path / str(cut) / "model").exists()
        train(tmp_path / str(cut), **options)
        assert _evaluations(tmp_path / str(cut)) == _evaluations(tmp_path / "whole")
        expected = _weights(tmp_path / "whole" / "model")
        assert all(
            torch.equal(weight, expected[name]) for name, weight in _weights(tmp_path / str(cut) / "model").items()
        )


def test_lost_best_weights_are_one_sentence(train: Callable[..., Any], tmp_path: Path, scored: list[int],
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    real = early_stopping.Judge.restore

    def lost(self: Judge, unet: Any) -> int | None:
        shutil.rmtree(self.run.path / "best")
        return real(self, unet)

    monkeypatch.setattr(early_stopping.Judge, "restore", lost)
    with pytest.raises(Unfinished, match="of step 1 is damaged or missing"):
        train(tmp_path, best_by="hand_found", keep="best", **JUDGED)


def test_a_stage_that_starts_again_without_its_best_weights_keeps_its_new_checkpoints(
    train: Callable[..., Any], tmp_path: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options: dict[str, Any] = {"best_by": "hand_found", "keep": "best", "checkpoint_minutes": 0.0, **JUDGED}
    score, cuts = Judge.score, []

    def dying(self: Judge, step: int, *arguments: Any) -> None:
        if step == cuts[-1]:
            raise KeyboardInterrupt
        score(self, step, *arguments)

    monkeypatch.setattr(Judge, "score", dying)
    for cut in (4, 3):
        cuts.append(cut)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, **options)
        if cut == 4:
            shutil.rmtree(tmp_path / "best")
    assert "Stage III starts again" in capsys.readouterr().err
    names = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert names == ["stage3-00000001", "stage3-00000002"]
    cuts.append(-1)
    train(tmp_path, **options)
    assert not re.search("starts again|lost", capsys.readouterr().err)
    assert [line["step"] for line in _evaluations(tmp_path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "best"), [("validation_loss", 2), ("hand_found", 4)])
def test_the_best_score_is_the_lowest_or_highest_by_the_metric(tmp_path: Path, name: str, best: int) -> None:
    options = replace(TrainOptions(), best_by=name, evaluate_every=1, patience=3)  # type: ignore[arg-type]
    judge = Judge(None, options, None)  # type: ignore[arg-type]
    assert judge.best is None
    judge.scores = [(0, math.nan), (2, 0.1), (4, 0.9), (6, 0.9)]
    assert judge.best == best
    assert not judge.ended
    judge.scores += [(8, 0.5), (10, 0.5)]
    assert judge.ended


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keep": "best"}, "give --evaluate-every"),
        ({"patience": 1}, "give --evaluate-every"),
        ({"evaluate_every": -1}, "--evaluate-every -1"),
        ({"evaluate_every": 1, "evaluation_images": 0}, "--evaluation-images 0"),
        ({"evaluate_every": 1, "best_by": "landmark_distance"}, "needs 200 hands"),
        ({"best_by": "beauty"}, "unknown --best-by beauty"),
    ],
)
def test_a_wrong_evaluation_option_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    options = replace(TrainOptions(), **changes)
    with pytest.raises(UserError, match=sentence):
        check(options)
        check_judging(options)


def test_reference_refuses_evaluations() -> None:
    with pytest.raises(UserError, match="which has no evaluation"):
        check(replace(options_of("reference"), evaluate_every=5))


def test_a_dataset_without_validation_or_hands_is_one_sentence(
    train: Callable[..., Any], dataset: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    for file in (copy / "data" / "call").glob("validation-*"):
        file.unlink()
    card = (copy / "README.md").read_text().split("  - split: validation")[0]
    (copy / "README.md").write_text(card + "---\n# A tiny dataset\n")
    with pytest.raises(UserError, match="needs a validation split"):
        train(tmp_path / "run", dataset=copy, best_by="hand_found", **JUDGED)
    with pytest.raises(UserError, match="gesture_accuracy cannot be computed"):
        train(tmp_path / "other", **JUDGED)  # 5 training hands


def test_images_are_measured_with_the_real_landmarker(tmp_path: Path) -> None:
    judge = Judge(None, TrainOptions(), None)  # type: ignore[arg-type]
    values = early_stopping.hand_metrics([np.zeros((64, 64, 3), np.uint8)] * 2, "call", judge)
    assert values["hand_found"] == 0
    assert all(math.isnan(values[name]) for name in ("hand_confidence", "gesture_accuracy", "landmark_distance"))


def test_the_report_shows_the_measured_metrics() -> None:
    values = {"hand_found": 0.5, "gesture_accuracy": None}
    chart = charts.evaluation_curves([{"stage": 3, "step": step, "evaluation": values} for step in (0, 10)])
    assert "hand found" in chart
    assert "gesture accuracy" not in chart
    assert charts.evaluation_curves([{"stage": 3, "step": 1, "loss": 0.1}]) == ""
