"""Judge a model while it trains, on a fixed small part of the validation split: which weights were best, when to stop.

Everything that is remembered follows from the run's log, which a checkpoint cuts to its own length: a run that was
killed judges as an undisturbed one does. The best weights lie in RUN/best, whole or not at all.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from handdata.errors import Unfinished, UserError
from handtrain import tensor_cache
from handtrain.evaluation import hands, metrics
from handtrain.evaluation.gesture_judge import named
from handtrain.evaluation.hands import Hand
from handtrain.presets import TrainOptions
from handtrain.run.folder import RunFolder

BEST_FILE = "best/unet.safetensors"
LOWER_IS_BETTER = {
    "validation_loss": True,
    "hand_found": False,
    "hand_confidence": False,
    "gesture_accuracy": False,
    "landmark_distance": True,
}
DRAWN = tuple(name for name in LOWER_IS_BETTER if name != "validation_loss")  # what needs generated images


@dataclass
class Judge:
    """Keeps score of one run and the best weights."""

    run: RunFolder
    options: TrainOptions
    known: metrics.GestureJudge | None  # names gestures; needed for gesture_accuracy
    real: np.ndarray | None = None  # (n, 20) joint angles of the training hands; needed for landmark_distance
    scores: list[tuple[int, float]] = field(default_factory=list)  # step and the metric that decides

    def remember(self) -> None:
        """Read the scores from the log, as it is when a run starts or continues."""
        path = self.run.path / "log.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        name = self.options.best_by
        self.scores = [(line["step"], _number(line["evaluation"][name])) for line in lines if "evaluation" in line]

    def due(self, step: int, total: int) -> bool:
        """Return whether the model is judged after so many steps of Stage III, the last among them."""
        every = self.options.evaluate_every
        return bool(every) and (step % every == 0 or step == total)

    def score(self, step: int, values: dict[str, float], unet: torch.nn.Module) -> None:
        """Log what was measured after a step, and keep the weights if they are the best so far."""
        clean = {name: None if math.isnan(value) else value for name, value in values.items()}
        value, before = values[self.options.best_by], self.best
        self.scores.append((step, value))
        if self.best != before:  # first the weights, then the line that counts on them
            weights = {name: one.detach().cpu().clone() for name, one in unet.named_parameters() if one.requires_grad}
            tensor_cache.write(self.run.path / BEST_FILE, weights, {"step": step})
        self.run.log(stage=3, step=step, evaluation=clean)

    @property
    def best(self) -> int | None:
        """The step after which the model was best; the earliest of equals; None before the first number."""
        sign = 1 if LOWER_IS_BETTER[self.options.best_by] else -1
        counted = [(sign * value, step) for step, value in self.scores if not math.isnan(value)]
        return min(counted)[1] if counted else None

    @property
    def ended(self) -> bool:
        """Whether so many evaluations in a row brought nothing better that training is to stop."""
        best = self.best
        since = [step for step, _ in self.scores if best is None or step > best]
        return bool(self.options.patience) and len(since) >= self.options.patience

    def restore(self, unet: torch.nn.Module) -> int | None:
        """Put the best weights into the UNet and return their step; None if it was never judged.

        Raises `Unfinished` if the file of the best weights is gone.
        """
        step = self.best
        if step is None:
            return None
        found = tensor_cache.read(self.run.path / BEST_FILE)
        if found is None or found[1]["step"] != step:
            raise Unfinished(
                f"{BEST_FILE} of step {step} is damaged or gone: delete the run's checkpoints and start it again"
            )
        weights = dict(unet.named_parameters())
        with torch.no_grad():
            for name, tensor in found[0].items():
                weights[name].copy_(tensor)
        return step


def check_judging(options: TrainOptions) -> None:
    """Raise `UserError` for the first option of the judging that makes no sense."""
    if options.best_by not in LOWER_IS_BETTER:
        raise UserError(f"--best-by {options.best_by} is not known: choose one of {', '.join(LOWER_IS_BETTER)}")
    for name in ("evaluate_every", "patience"):
        if getattr(options, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} must not be below 0")
    if (options.patience or options.keep == "best") and not options.evaluate_every:
        raise UserError("--keep best and --patience judge the model while it trains: say --evaluate-every STEPS")
    if options.evaluation_images < 1:
        raise UserError(f"--evaluation-images {options.evaluation_images} must be at least 1")
    if options.best_by == "landmark_distance" and options.evaluate_every:
        least = metrics.LEAST_HANDS
        if options.evaluation_images < least:
            raise UserError(
                f"--best-by landmark_distance needs {least} hands: say --evaluation-images {least} or more, "
                "or take another metric"
            )


def measured(images: Sequence[np.ndarray], gesture: str, judge: Judge) -> dict[str, float]:
    """Return the hand metrics of images (h, w, 3) of uint8; what cannot be said of them is nan."""
    with hands.hand_finder(hands.DETECTION) as finder:
        found = [hands.find(finder, image) for image in images]
    every = [hand for of_image in found for hand in of_image]
    values = {
        "hand_found": float(np.mean([bool(of_image) for of_image in found])),
        "hand_confidence": float(np.mean([hand.score for hand in every])) if every else math.nan,
        "gesture_accuracy": math.nan,
        "landmark_distance": math.nan,
    }
    if judge.known:
        right = [bool(of_image) and gesture in named(of_image, judge.known) for of_image in found]
        values["gesture_accuracy"] = float(np.mean(right))
    if judge.real is not None and len(every) >= metrics.LEAST_HANDS:
        angles = metrics.joint_angles(np.array([hand.points() for hand in every]))
        values["landmark_distance"] = metrics.frechet_distance(judge.real, angles)
    return values


def training_angles(known: Sequence[Hand]) -> np.ndarray | None:
    """Return the joint angles (n, 20) of the training hands; None if they are too few for a distance."""
    return (
        metrics.joint_angles(np.array([hand.points() for hand in known])) if len(known) >= metrics.LEAST_HANDS else None
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
