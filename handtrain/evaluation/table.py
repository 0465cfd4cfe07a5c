"""The table of metrics, a row each, and their functions: values of all sides, with intervals and counts.

A function takes the rows of every side and returns an entry: `unit`, `n` by side, and for real, fake, base and
difference (fake minus base) a dict of `value`, `low` and `high`. Entries are what the JSON file of an evaluation holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from handtrain.evaluation import bootstrap, metrics, side_effects
from handtrain.evaluation.bootstrap import Draws
from handtrain.evaluation.extraction import DETECTIONS, FEATURES, Sides
from handtrain.evaluation.features import Rows
from handtrain.evaluation.gesture_judge import named

Entry = dict[str, Any]
Interval = Callable[[float, np.ndarray], tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """Inputs of the metrics other than the extracted rows."""

    draws: Draws  # for distances
    mean_draws: Draws  # for means
    seed: int
    gesture: str | None  # the gesture that the images should show
    judge: metrics.GestureJudge | str  # names the gesture of a hand; or the reason why it is missing


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str
    variant: str  # standard, or reference: as the released code computes it
    extraction: str  # of extraction.DETECTIONS or FEATURES
    function: Callable[[Sides, Comparison], Entry]
    lower_is_better: bool


def compute(extracted: dict[str, Sides | str], comparison: Comparison, variants: str) -> dict[str, dict[str, Entry]]:
    """Return the entry of every metric by name and variant; a reason in place of rows becomes `not_computed`."""
    table: dict[str, dict[str, Entry]] = {}
    for row in rows_of(variants):
        rows = extracted[row.extraction]
        entry = not_computed(rows) if isinstance(rows, str) else row.function(rows, comparison)
        table.setdefault(row.name, {})[row.variant] = entry
    return table


def rows_of(variants: str) -> list[Metric]:
    """Return the rows of the table for the option `variants`: `both` or `standard`."""
    return [row for row in METRICS if variants == "both" or row.variant == variants]


def extractions_of(variants: str) -> list[str]:
    """Return the names of the extractions that these rows need, in the order of their tables."""
    needed = {row.extraction for row in rows_of(variants)}
    return [name for name in (*DETECTIONS, *FEATURES) if name in needed]


def not_computed(reason: str) -> Entry:
    """Return the entry of a metric that could not be computed."""
    return {"not_computed": reason}


def frechet(sides: Sides, comparison: Comparison, unit: str) -> Entry:
    """Return the Frechet distance (FID for whole images) of every generated side, with its own bias at this n."""

    def distance(real: Rows, fake: Rows) -> tuple[Entry, np.ndarray]:
        value = metrics.frechet_distance(real.values, fake.values)
        replicates = []
        for x, y in zip(comparison.draws.real, comparison.draws.fake, strict=True):
            weights = x[real.owner], y[fake.owner]
            enough = min(w.sum() for w in weights) > 1
            replicates.append(metrics.frechet_distance(real.values, fake.values, *weights) if enough else np.nan)
        bias = metrics.frechet_bias(real.values, fake.values, comparison.seed)
        return {**_estimate(value, np.array(replicates), bootstrap.around), "bias": bias}, np.array(replicates)

    return _distances(sides, unit, distance)


def kernel(sides: Sides, comparison: Comparison, unit: str, biased: bool) -> Entry:
    """Return the kernel distance (KID for whole images) of every generated side, with its spread over the subsets."""

    def distance(real: Rows, fake: Rows) -> tuple[Entry, np.ndarray]:
        kid = metrics.kid(real.values, fake.values, biased)
        weights = comparison.draws.real[:, real.owner], comparison.draws.fake[:, fake.owner]
        replicates = metrics.mmd_draws(real.values, fake.values, *weights, biased)
        entry = _estimate(kid.value, replicates, bootstrap.around)
        return {**entry, "spread": kid.spread, "subset": kid.subset}, replicates

    return _distances(sides, unit, distance)


def cmmd(sides: Sides, comparison: Comparison, unit: str) -> Entry:
    """Return CMMD of every generated side."""

    def distance(real: Rows, fake: Rows) -> tuple[Entry, np.ndarray]:
        once = np.ones((1, len(real.values))), np.ones((1, len(fake.values)))
        value = float(metrics.cmmd_draws(real.values, fake.values, *once)[0])
        weights = comparison.draws.real[:, real.owner], comparison.draws.fake[:, fake.owner]
        replicates = metrics.cmmd_draws(real.values, fake.values, *weights)
        return _estimate(value, replicates, bootstrap.around), replicates

    return _distances(sides, unit, distance)


def coverage(sides: Sides, comparison: Comparison, unit: str, of: str) -> Entry:
    """Return the share of the rows `of` a side (real or fake) within the balls of the other: recall or precision."""
    for side, rows in sides.items():
        if len(rows.values) <= metrics.BALL:
            return not_computed(f"{len(rows.values)} {unit} on the {side} side: a ball needs {metrics.BALL} neighbours")

    def distance(real: Rows, fake: Rows) -> tuple[Entry, np.ndarray]:
        points, centers = (real, fake) if of == "real" else (fake, real)
        weights = comparison.draws.real[:, real.owner], comparison.draws.fake[:, fake.owner]
        point_draws, center_draws = weights if of == "real" else weights[::-1]
        once = np.ones((1, len(points.values))), np.ones((1, len(centers.values)))
        value = float(metrics.coverage_draws(points.values, centers.values, *once)[0])
        replicates = metrics.coverage_draws(points.values, centers.values, point_draws, center_draws)
        interval = partial(bootstrap.share_around, count=len(points.values))
        return _estimate(value, replicates, interval), replicates

    entry = _distances(sides, unit, distance)
    pair = [entry[side] for side in ("fake", "base") if side in entry]
    if len(pair) == 2 and any(estimate["value"] in (0, 1) for estimate in pair):  # its draws vary too little
        low, high = bootstrap.square_and_add(*((each["value"], each["low"], each["high"]) for each in pair))
        entry["difference"] |= {"low": low, "high": high}
    return entry


def landmark_distance(sides: Sides, comparison: Comparison) -> Entry:
    """Return the Frechet distance on 20 joint angles of every generated side."""
    for side, rows in sides.items():
        if len(rows.values) < metrics.LEAST_HANDS:
            return not_computed(f"{len(rows.values)} hands on the {side} side are fewer than {metrics.LEAST_HANDS}")
    return frechet({side: _angles(rows) for side, rows in sides.items()}, comparison, "hands")


def hand_confidence(sides: Sides, comparison: Comparison) -> Entry:
    """Return HAND-CONF: the mean handedness score over the detected hands; images without a hand do not count."""
    if not any(len(rows.values) for rows in sides.values()):
        return not_computed("no hand was found on any side")
    ratios = {side: (rows.sums(rows.values[:, 64]), rows.counts()) for side, rows in sides.items()}
    return _ratios(ratios, comparison.mean_draws, "hands")


def found_rate(sides: Sides, comparison: Comparison) -> Entry:
    """Return the share of the images in which a hand was detected."""
    return _shares({side: rows.counts() > 0 for side, rows in sides.items()})


def gesture_accuracy(sides: Sides, comparison: Comparison) -> Entry:
    """Return the share of the images with a hand that makes the requested gesture; an image without a hand is wrong."""
    if isinstance(comparison.judge, str):
        return not_computed(comparison.judge)
    right = {}
    for side, rows in sides.items():
        names = named([hand for of_image in rows.hands() for hand in of_image], comparison.judge)
        makes_it = np.array([name == comparison.gesture for name in names], dtype=float)
        right[side] = rows.sums(makes_it) > 0
    return _shares(right)


def clip_score(sides: Sides, comparison: Comparison) -> Entry:
    """Return the mean cosine between image and text of the sides that have texts."""
    return _means({side: rows.values[:, 0] for side, rows in sides.items() if len(rows.values)}, comparison)


# A new metric is one row here and one function above.
METRICS = (
    Metric("FID", "standard", "fid", partial(frechet, unit="images"), True),
    Metric("FID", "reference", "fid reference", partial(frechet, unit="images"), True),
    Metric("KID", "standard", "fid", partial(kernel, unit="images", biased=False), True),
    Metric("KID", "reference", "fid reference", partial(kernel, unit="images", biased=True), True),
    Metric("FID-H", "standard", "fid-h", partial(frechet, unit="hands"), True),
    Metric("FID-H", "reference", "fid-h reference", partial(frechet, unit="images with hands"), True),
    Metric("KID-H", "standard", "fid-h", partial(kernel, unit="hands", biased=False), True),
    Metric("KID-H", "reference", "kid-h reference", partial(kernel, unit="hands", biased=True), True),
    Metric("FD-DINOv2", "standard", "dinov2", partial(frechet, unit="images"), True),
    Metric("FD-DINOv2-H", "standard", "dinov2-h", partial(frechet, unit="hands"), True),
    Metric("CMMD", "standard", "cmmd", partial(cmmd, unit="images"), True),
    Metric("CMMD-H", "standard", "cmmd-h", partial(cmmd, unit="hands"), True),
    Metric("precision", "standard", "dinov2", partial(coverage, unit="images", of="fake"), False),
    Metric("precision-H", "standard", "dinov2-h", partial(coverage, unit="hands", of="fake"), False),
    Metric("recall", "standard", "dinov2", partial(coverage, unit="images", of="real"), False),
    Metric("recall-H", "standard", "dinov2-h", partial(coverage, unit="hands", of="real"), False),
    Metric("HAND-CONF", "standard", "hands", hand_confidence, False),
    Metric("HAND-CONF", "reference", "hands reference", hand_confidence, False),
    Metric("hand-found rate", "standard", "hands", found_rate, False),
    Metric("hand-found rate", "reference", "hands reference", found_rate, False),
    Metric("gesture accuracy", "standard", "hands", gesture_accuracy, False),
    Metric("landmark distance", "standard", "hands", landmark_distance, True),
    Metric("CLIP score", "standard", "clip", clip_score, False),
)
LOWER_IS_BETTER = {row.name: row.lower_is_better for row in METRICS} | side_effects.LOWER_IS_BETTER


def _distances(sides: Sides, unit: str, distance: Callable[[Rows, Rows], tuple[Entry, np.ndarray]]) -> Entry:
    for side, rows in sides.items():
        if len(rows.values) < 2:
            return not_computed(f"{len(rows.values)} {unit} on the {side} side: a spread needs two")
    entry: Entry = {"unit": unit, "n": {side: len(rows.values) for side, rows in sides.items()}}
    replicates = {}
    for side in [side for side in sides if side != "real"]:
        entry[side], replicates[side] = distance(sides["real"], sides[side])
    return _with_difference(entry, replicates, bootstrap.around)


def _means(values: dict[str, np.ndarray], comparison: Comparison) -> Entry:
    ratios = {side: (of_side, np.ones(len(of_side))) for side, of_side in values.items()}
    return _ratios(ratios, comparison.mean_draws, "images")


def _shares(right: dict[str, np.ndarray]) -> Entry:
    """Return the entry of a share of the images, from whether each is right (n,), for every side."""
    entry: Entry = {"unit": "images", "n": {side: len(of_side) for side, of_side in right.items()}}
    for side, of_side in right.items():
        entry[side] = _bounded(float(of_side.mean()), of_side, bootstrap.wilson(int(of_side.sum()), len(of_side)))
    if "fake" in right and "base" in right:
        tuned, base = right["fake"], right["base"]
        interval = bootstrap.share_difference(tuned, base)
        entry["difference"] = _bounded(entry["fake"]["value"] - entry["base"]["value"], tuned, interval)
    return entry


def _bounded(value: float, images: np.ndarray, interval: tuple[float, float]) -> Entry:
    low, high = interval if len(images) > 1 else (None, None)
    return {"value": value, "low": low, "high": high}


def _ratios(parts: dict[str, tuple[np.ndarray, np.ndarray]], draws: Draws, unit: str) -> Entry:
    """Return the entry of a mean from its sums and counts per image, for every side."""
    entry: Entry = {"unit": unit, "n": {side: int(counts.sum()) for side, (_, counts) in parts.items()}}
    replicates = {}
    for side, (sums, counts) in parts.items():
        if counts.sum() == 0:
            entry[side] = None
            continue
        replicates[side] = bootstrap.ratio_draws(sums, counts, draws.of(side))
        if (counts > 0).sum() < 2:
            replicates[side][:] = np.nan  # the same value in every draw: no interval
        entry[side] = _estimate(float(sums.sum() / counts.sum()), replicates[side], _percentiles)
    return _with_difference(entry, replicates, _percentiles)


def _percentiles(_: float, replicates: np.ndarray) -> tuple[float, float]:
    return bootstrap.percentiles(replicates)


def _estimate(value: float, replicates: np.ndarray, interval: Interval) -> Entry:
    low, high = interval(value, replicates)
    known = bool(np.isfinite([low, high]).all())  # False for fewer than two images, or if most draws contain no hand
    return {"value": value, "low": low if known else None, "high": high if known else None}


def _with_difference(entry: Entry, replicates: dict[str, np.ndarray], interval: Interval) -> Entry:
    """Add tuned minus base, with the interval of the difference itself."""
    if "fake" in replicates and "base" in replicates:
        value = entry["fake"]["value"] - entry["base"]["value"]
        entry["difference"] = _estimate(value, replicates["fake"] - replicates["base"], interval)
    return entry


def _angles(rows: Rows) -> Rows:
    points = [hand.points() for of_image in rows.hands() for hand in of_image]
    return Rows(metrics.joint_angles(np.array(points)), rows.owner, rows.images)
