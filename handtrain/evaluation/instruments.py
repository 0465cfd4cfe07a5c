"""Pose error, specificity and retention: three properties of a trained model that gesture accuracy leaves open.

Pure functions of arrays and detected hands. Intervals are 95 %, by percentile bootstrap over the images; two sides from
the same prompts and seeds are compared by the paired difference.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from handtrain.evaluation import bootstrap
from handtrain.evaluation.hands import Hand


@dataclass(frozen=True)
class Estimate:
    """A value over n images with its interval."""

    n: int
    value: float
    low: float
    high: float

    def record(self) -> dict[str, Any]:
        """Return it as it is written to JSON."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


def mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of numbers (n,)."""
    return _estimate(values, np.mean, seed)


def median(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the median of numbers (n,)."""
    return _estimate(values, np.median, seed)


def difference(before: np.ndarray, after: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of after - before (n,) of the same prompts and seeds."""
    return mean(np.asarray(after, float) - np.asarray(before, float), seed)


def pose_errors(asked: np.ndarray, hands: Sequence[Sequence[Hand]]) -> np.ndarray:
    """Return each image's distance (n,) between the requested joints and those of the nearest hand found in it.

    `asked` (n, 64) are poses in fractions of the square image. The distance is the mean over the 21 joints, divided by
    the longer side of the box of the requested joints. NaN where no pose was given or no hand is found.
    """
    errors = np.full(len(asked), np.nan)
    for number, (pose, found) in enumerate(zip(asked, hands, strict=True)):
        if np.isnan(pose).any() or not found:
            continue
        joints = pose[:63].reshape(21, 3)[:, :2]
        size = float(np.ptp(joints, axis=0).max())
        distances = [np.linalg.norm(hand.landmarks[:, :2] - joints, axis=1).mean() for hand in found]
        errors[number] = min(distances) / max(size, 1e-6)
    return errors


def pose_error(asked: np.ndarray, hands: Sequence[Sequence[Hand]]) -> dict[str, Any]:
    """Return the median pose error with its interval, and the share of posed images without a hand."""
    errors, known = pose_errors(asked, hands), ~np.isnan(asked).any(axis=1)
    missing = np.array([not found for found in hands], float)[known]
    return {
        "error": median(errors[np.isfinite(errors)]).record(),
        "no hand": mean(missing).record(),
    }


def makes(names: Sequence[Sequence[str]], gesture: str) -> np.ndarray:
    """Return for each image whether one of its hands makes a gesture, (n,) of 0 and 1. `names`: one for each hand."""
    return np.array([float(gesture in of_image) for of_image in names])


def specificity(
    trained: str,
    free: Sequence[Sequence[str]],
    free_base: Sequence[Sequence[str]] | None = None,
    others: Sequence[tuple[str, Sequence[str]]] = (),
) -> dict[str, Any]:
    """Return how often the trained gesture appears without request, and how well others are still drawn on request.

    `free` are the gestures in images whose prompts name none, `free_base` those of the base model from the same
    prompts and seeds, `others` the requested gesture and those found, for each image of another gesture.
    """
    unasked = makes(free, trained)
    result: dict[str, Any] = {"unasked": mean(unasked).record()}
    if free_base is not None:
        of_base = makes(free_base, trained)
        result["unasked, base"] = mean(of_base).record()
        result["unasked, difference"] = difference(of_base, unasked).record()
    if others:
        instead = makes([names for _, names in others], trained)
        right = np.array([float(asked in names) for asked, names in others])
        result["instead of another"] = mean(instead).record()
        result["accuracy of others"] = mean(right).record()
    return result


def retention(tuned: np.ndarray, base: np.ndarray, other_base: np.ndarray | None = None) -> dict[str, Any]:
    """Return how far gesture-free images (n, h, w, 3) moved from the base's of the same prompts and seeds.

    The distance of two images is their mean absolute difference, in shares of the full range. `other_base` are the
    base's images from other seeds: their distance is that of images which share the prompt alone.
    """
    moved = distances(tuned, base)
    result = {"distance": mean(moved).record()}
    if other_base is not None:
        result["distance of other seeds"] = mean(distances(other_base, base)).record()
    return result


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference (n,) of images (n, h, w, 3), in shares of the full range."""
    return np.asarray(np.abs(x.astype(np.float32) - y.astype(np.float32)).mean(axis=(1, 2, 3)) / 255)


def _estimate(values: np.ndarray, statistic: Any, seed: int) -> Estimate:
    if not len(values):
        return Estimate(0, np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(len(values), size=(bootstrap.MEAN_DRAWS, len(values)))]
    low, high = bootstrap.percentiles(statistic(drawn, axis=1))
    return Estimate(len(values), float(statistic(values)), low, high)
