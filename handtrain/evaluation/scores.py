"""The table of metrics of a generated set, and of a base set made alike, against real images: values, intervals, n."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handtrain.evaluation import bootstrap as intervals
from handtrain.evaluation import metrics
from handtrain.evaluation.features import Rows
from handtrain.evaluation.hands import Hand
from handtrain.method.gesture import normalised

Sides = dict[str, Rows]  # real, fake and, where there is one, base
Values = dict[str, np.ndarray | None]
Entry = dict[str, Any]

LOWER_IS_BETTER = {"FID": True, "KID": True, "FID-H": True, "KID-H": True, "HAND-CONF": False, "hand-found rate": False,
                   "gesture accuracy": False, "landmark distance": True, "CLIP score": False}  # fmt: skip


def not_computed(reason: str) -> Entry:
    """Return the entry of a metric that could not be computed."""
    return {"not_computed": reason}


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of the images. A base set shares those of the tuned one: its images have the same names."""

    real: np.ndarray  # (b, images)
    fake: np.ndarray  # (b, images)

    @classmethod
    def make(cls, real: int, fake: int, count: int, seed: int) -> "Draws":
        """Draw `count` times."""
        return cls(intervals.draws(real, count, seed), intervals.draws(fake, count, seed + 1))

    def of(self, side: str) -> np.ndarray:
        """Return the draws (b, images) of a side."""
        return self.real if side == "real" else self.fake


def frechet(sides: Sides, draws: Draws, unit: str, seed: int) -> Entry:
    """Return FID, or the like of any rows, of every generated side; with its own bias at this n."""
    return _distances(sides, unit, lambda real, fake: _frechet_of(real, fake, draws, seed))


def kernel(sides: Sides, draws: Draws, unit: str, biased: bool) -> Entry:
    """Return KID, or the like of any rows, of every generated side; with its spread over the subsets."""
    return _distances(sides, unit, lambda real, fake: _kernel_of(real, fake, draws, biased))


def landmark_distance(hands: Sides, draws: Draws, seed: int) -> Entry:
    """Return the Frechet distance on 20 joint angles of every generated side."""
    for side, rows in hands.items():
        if len(rows.values) < metrics.LEAST_HANDS:
            return not_computed(f"{len(rows.values)} hands on the {side} side are fewer than {metrics.LEAST_HANDS}")
    return frechet({side: _angles(rows) for side, rows in hands.items()}, draws, "hands", seed)


def hand_confidence(hands: Sides, draws: Draws) -> Entry:
    """Return HAND-CONF: the mean handedness score over the hands found; images without a hand do not count."""
    if not any(len(rows.values) for rows in hands.values()):
        return not_computed("no hand was found on any side")
    return _ratios(
        {side: (rows.sums(rows.values[:, 64]), rows.counts()) for side, rows in hands.items()}, draws, "hands"
    )


def found_rate(hands: Sides, draws: Draws) -> Entry:
    """Return the share of the images in which a hand was found."""
    return _means({side: (rows.counts() > 0).astype(float) for side, rows in hands.items()}, draws)


def gesture_accuracy(hands: Sides, judge: metrics.GestureJudge, gesture: str, draws: Draws) -> Entry:
    """Return the share of the images with a hand that makes the gesture asked for; no hand is wrong."""
    right = {}
    for side, rows in hands.items():
        names = np.array(named([hand for of_image in rows.hands() for hand in of_image], judge), dtype=object)
        right[side] = (rows.sums((names == gesture).astype(float)) > 0).astype(float)
    return _means(right, draws)


def named(hands: Sequence[Hand], judge: metrics.GestureJudge) -> list[str]:
    """Return the gesture that each hand makes."""
    points = np.array([normalised(hand) for hand in hands]).reshape(-1, 63)  # type: ignore[arg-type]
    return [str(name) for name in judge.name(points)]


def clip_score(cosines: Values, draws: Draws) -> Entry:
    """Return the mean cosine between image and text; a side whose cosines are None has no texts."""
    return _means({side: values for side, values in cosines.items() if values is not None}, draws)


def _frechet_of(real: Rows, fake: Rows, draws: Draws, seed: int) -> tuple[Entry, np.ndarray]:
    value = metrics.frechet_distance(real.values, fake.values)
    found = []
    for x, y in zip(draws.real, draws.fake, strict=True):
        weights = x[real.owner], y[fake.owner]
        enough = min(w.sum() for w in weights) > 1
        found.append(metrics.frechet_distance(real.values, fake.values, *weights) if enough else np.nan)
    replicates = np.array(found)
    bias = metrics.frechet_bias(real.values, fake.values, seed)
    return {**_interval(value, replicates, intervals.around), "bias": bias}, replicates


def _kernel_of(real: Rows, fake: Rows, draws: Draws, biased: bool) -> tuple[Entry, np.ndarray]:
    kid = metrics.kid(real.values, fake.values, biased)
    weights = draws.real[:, real.owner], draws.fake[:, fake.owner]
    replicates = metrics.mmd_draws(real.values, fake.values, *weights, biased)
    entry = _interval(kid.value, replicates, intervals.around)
    return {**entry, "spread": kid.spread, "subset": kid.subset}, replicates


def _distances(sides: Sides, unit: str, compute: Callable[[Rows, Rows], tuple[Entry, np.ndarray]]) -> Entry:
    for side, rows in sides.items():
        if len(rows.values) < 2:
            return not_computed(f"{len(rows.values)} {unit} on the {side} side: a spread needs two")
    entry: Entry = {"unit": unit, "n": {side: len(rows.values) for side, rows in sides.items()}}
    replicates = {}
    for side in _generated(sides):
        entry[side], replicates[side] = compute(sides["real"], sides[side])
    return _with_difference(entry, replicates, intervals.around)


def _means(scores: dict[str, np.ndarray], draws: Draws) -> Entry:
    return _ratios({side: (values, np.ones(len(values))) for side, values in scores.items()}, draws, "images")


def _ratios(parts: dict[str, tuple[np.ndarray, np.ndarray]], draws: Draws, unit: str) -> Entry:
    """Return a mean with its interval for every side: sums and counts per image."""
    entry: Entry = {"unit": unit, "n": {side: int(counts.sum()) for side, (_, counts) in parts.items()}}
    replicates = {}
    for side, (sums, counts) in parts.items():
        if counts.sum() == 0:
            entry[side] = None
            continue
        replicates[side] = intervals.ratio_draws(sums, counts, draws.of(side))
        entry[side] = _interval(float(sums.sum() / counts.sum()), replicates[side], _percentiles)
    return _with_difference(entry, replicates, _percentiles)


Interval = Callable[[float, np.ndarray], tuple[float, float]]


def _percentiles(_: float, replicates: np.ndarray) -> tuple[float, float]:
    return intervals.percentiles(replicates)


def _interval(value: float, replicates: np.ndarray, interval: Interval) -> Entry:
    low, high = interval(value, replicates)
    known = bool(np.isfinite([low, high]).all())  # not with so few hands that most draws hold none
    return {"value": value, "low": low if known else None, "high": high if known else None}


def _with_difference(entry: Entry, replicates: dict[str, np.ndarray], interval: Interval) -> Entry:
    """Add tuned minus base, with the interval of the difference itself."""
    if "fake" in replicates and "base" in replicates:
        value = entry["fake"]["value"] - entry["base"]["value"]
        entry["difference"] = _interval(value, replicates["fake"] - replicates["base"], interval)
    return entry


def _angles(rows: Rows) -> Rows:
    points = [hand.points() for of_image in rows.hands() for hand in of_image]
    return Rows(metrics.joint_angles(np.array(points)), rows.owner, rows.images)


def _generated(sides: Sequence[str] | Sides) -> list[str]:
    return [side for side in sides if side != "real"]
