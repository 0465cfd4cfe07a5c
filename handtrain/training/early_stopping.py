"""Evaluations during training on a small, fixed part of the validation split: the best weights, early stopping.

The state follows from the run's log, which is cut to the length that a checkpoint records: a resumed run evaluates
like an uninterrupted one. The best weights are in RUN/best, whole or absent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from handdata.errors import Unfinished, UserError
from handtrain import tensor_cache
from handtrain.data.dataset import Photographs
from handtrain.evaluation import hands, metrics
from handtrain.evaluation.gesture_judge import gesture_judge, known_hands, named
from handtrain.evaluation.hands import Hand
from handtrain.evaluation.image_sets import Preparation
from handtrain.presets import LOWER_IS_BETTER, TrainOptions
from handtrain.run.folder import Run, RunFolder
from handtrain.run.session import Session
from handtrain.tensor_cache import TensorCache

BEST_FILE = "best/unet.safetensors"


@dataclass
class Judge:
    """The evaluations of one run and its best weights."""

    run: RunFolder
    options: TrainOptions
    classifier: metrics.GestureJudge | None  # of gestures; needed for gesture_accuracy
    real: np.ndarray | None = None  # (n, 20) joint angles of the training hands; needed for landmark_distance
    scores: list[tuple[int, float]] = field(default_factory=list)  # step and the metric of --best-by

    def read_scores(self, state: dict[str, Any]) -> None:
        """Read the scores from the state of the checkpoint that a run is resumed from, or from the run's log.

        Older versions did not store them in checkpoints.
        """
        name = self.options.best_by
        if "scores" in state:
            self.scores = [(step, math.nan if value is None else value) for step, value in state["scores"]]
            return
        evaluations = [line for line in Run(self.run.path).log if "evaluation" in line]
        values = [(line["step"], line["evaluation"].get(name)) for line in evaluations]
        self.scores = [(step, math.nan if value is None else value) for step, value in values]

    @property
    def state(self) -> dict[str, Any]:
        """The scores as a checkpoint stores them."""
        return {"scores": [(step, None if math.isnan(value) else value) for step, value in self.scores]}

    def due(self, step: int, total: int) -> bool:
        """Return whether the model is evaluated after this number of steps of Stage III; always after the last."""
        return is_due(self.options.evaluate_every, step, total)

    def score(self, step: int, values: dict[str, float], module: torch.nn.Module) -> None:
        """Log the metrics after a step, and store the weights if they are the best so far."""
        previous = self.best
        self.scores.append((step, values[self.options.best_by]))
        if self.best != previous:  # the weights are stored before the line of the log that relies on them
            weights = {name: w.detach().cpu().clone() for name, w in module.named_parameters() if w.requires_grad}
            about = {"step": step, "run": self.run.key}
            tensor_cache.write(self.run.path / BEST_FILE, weights, about)
        finite = {name: None if math.isnan(value) else value for name, value in values.items()}
        self.run.log(stage=3, step=step, evaluation=finite)

    @property
    def best(self) -> int | None:
        """The step of the best score, the earliest of equal ones; None if no score is a number."""
        sign = 1 if LOWER_IS_BETTER[self.options.best_by] else -1
        numbers = [(sign * value, step) for step, value in self.scores if not math.isnan(value)]
        return min(numbers)[1] if numbers else None

    @property
    def ended(self) -> bool:
        """Whether `patience` evaluations in a row were not better than the best."""
        best = self.best
        since = [step for step, _ in self.scores if best is None or step > best]
        return bool(self.options.patience) and len(since) >= self.options.patience

    def is_stored(self, resumed: int) -> bool:
        """Return whether the best weights are stored, or are going to be, after a run is resumed at a step."""
        stored = tensor_cache.read(self.run.path / BEST_FILE)
        if self.best is None or stored is None or not self.run.owns(stored[1]):
            return self.best is None
        return bool(stored[1]["step"] == self.best or stored[1]["step"] > resumed)

    def restore(self, module: torch.nn.Module) -> int | None:
        """Load the best weights into the trained module and return their step; None without an evaluation.

        Raises `Unfinished` if the file of the best weights is missing or damaged.
        """
        step = self.best
        if step is None:
            return None
        best = tensor_cache.read(self.run.path / BEST_FILE)
        if best is None or best[1]["step"] != step:
            raise Unfinished(
                f"{BEST_FILE} of step {step} is damaged or missing: delete the run's checkpoints and start it again"
            )
        weights = dict(module.named_parameters())
        with torch.no_grad():
            for name, tensor in best[0].items():
                weights[name].copy_(tensor)
        return step


def check_judging(options: TrainOptions) -> None:
    """Raise `UserError` if the metric of --best-by is unknown or cannot be computed."""
    if options.best_by not in LOWER_IS_BETTER:
        raise UserError(f"unknown --best-by {options.best_by}: choose one of {', '.join(LOWER_IS_BETTER)}")
    least = metrics.LEAST_HANDS
    if options.best_by == "landmark_distance" and options.evaluate_every and options.evaluation_images < least:
        raise UserError(
            f"--best-by landmark_distance needs {least} hands: give --evaluation-images {least} or more, "
            "or another metric"
        )


def open_judge(
    session: Session, options: TrainOptions, photographs: Photographs, resolution: int, cache: TensorCache
) -> Judge:
    """Return the judge of a run with its scores so far. Raises `UserError` if its metric cannot be computed.

    If the best weights are lost and the model is to have them, Stage III starts again.
    """
    run = session.run
    gesture = run.record["config"]["gesture"]
    training_hands = known_hands(photographs.place, Preparation(resolution, options.crop), cache, "--dataset")
    classifier = gesture_judge(training_hands, gesture)
    if isinstance(classifier, str) and options.best_by == "gesture_accuracy":
        raise UserError(f"--best-by gesture_accuracy cannot be computed: {classifier}")
    real = _joint_angles(training_hands[gesture])
    if real is None and options.best_by == "landmark_distance":
        raise UserError("--best-by landmark_distance: too few training images have a hand that MediaPipe detects")
    judge = Judge(run, options, None if isinstance(classifier, str) else classifier, real)
    judge.read_scores(session.resume.state if session.resume else {})
    if session.resume and options.keep == "best" and not judge.is_stored(int(session.resume.state.get("step", 0))):
        session.forget_checkpoint(f"{BEST_FILE} is damaged or missing")
        judge.read_scores({})
    return judge


def hand_metrics(images: Sequence[np.ndarray], gesture: str, judge: Judge) -> dict[str, float]:
    """Return the hand metrics of images (h, w, 3) of uint8; nan where a metric cannot be computed."""
    with hands.hand_finder(hands.DETECTION) as finder:
        by_image = finder.map(partial(hands.find, finder), images)
    all_hands = [hand for of_image in by_image for hand in of_image]
    accuracy = distance = math.nan
    if judge.classifier:
        accuracy = float(np.mean([bool(each) and gesture in named(each, judge.classifier) for each in by_image]))
    angles = _joint_angles(all_hands)
    if judge.real is not None and angles is not None:
        distance = metrics.frechet_distance(judge.real, angles)
    return {
        "hand_found": float(np.mean([bool(each) for each in by_image])),
        "hand_confidence": float(np.mean([hand.score for hand in all_hands])) if all_hands else math.nan,
        "gesture_accuracy": accuracy,
        "landmark_distance": distance,
    }


def is_due(every: int, step: int, total: int) -> bool:
    """Return whether a step is a multiple of `every` or the last; never if `every` is 0."""
    return bool(every) and (step % every == 0 or step == total)


def _joint_angles(detected: Sequence[Hand]) -> np.ndarray | None:
    """Return the joint angles (n, 20) of hands; None if they are too few for a distance."""
    if len(detected) < metrics.LEAST_HANDS:
        return None
    return metrics.joint_angles(np.array([hand.points() for hand in detected]))
