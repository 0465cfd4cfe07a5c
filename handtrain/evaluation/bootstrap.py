"""Bootstrap intervals: how far a metric would move if other images had been drawn.

Images are drawn with replacement, and all hands of an image go with it. A draw is a vector of weights, so one draw
serves every metric of a set, and a base and a tuned set made from the same prompts and seeds share theirs: the interval
of their difference then leaves out what both have in common.
"""

from collections.abc import Callable

import numpy as np

LEVEL = 0.95
MEAN_DRAWS = 2000  # a percentile needs many
Statistic = Callable[[np.ndarray, np.ndarray], float]


def draws(images: int, count: int, seed: int) -> np.ndarray:
    """Return how often each image is in each draw, (count, images) int16. Each row sums to `images`."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(count)]).astype(
        np.int16
    )


def around(value: float, replicates: np.ndarray) -> tuple[float, float]:
    """Return value +- 1.96 standard deviations of the replicates; NaN, from a draw of too little, is left out.

    For distances: their bootstrap mean lies above the estimate (a draw repeats rows, so its covariance is smaller in
    rank), and percentiles would leave the estimate itself outside.
    """
    known = replicates[np.isfinite(replicates)]
    half = 1.96 * float(np.std(known, ddof=1)) if len(known) > 1 else np.nan
    return value - half, value + half


def percentiles(replicates: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of the replicates; NaN, from a draw without any hand, is left out."""
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def ratio_draws(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return sum over sum for each draw, (b,): sums (n,) and counts (n,) per image, weights (b, n).

    The mean of a score over hands, where an image has none, one or two. NaN where a draw holds nothing to count.
    """
    totals = weights @ np.asarray(counts, dtype=np.float64)
    return np.asarray(
        np.divide(
            weights @ np.asarray(sums, dtype=np.float64), totals, out=np.full(len(weights), np.nan), where=totals > 0
        )
    )
