"""Bootstrap intervals: how much a metric varies with the images that were drawn.

Images are drawn with replacement, each with all its hands. A draw is a vector of weights, so one draw
serves every metric of a set. A base and a tuned set from the same prompts and seeds share their draws: the interval of
their difference then excludes the variation that both have in common.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
MEAN_DRAWS = 2000  # for percentiles, which need more draws than a standard deviation


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of the images. A base set shares those of the tuned one: its images have the same names."""

    real: np.ndarray  # (b, images)
    fake: np.ndarray  # (b, images)

    @classmethod
    def make(cls, real: int, fake: int, count: int, seed: int) -> "Draws":
        """Draw `count` times from `real` and `fake` images."""
        return cls(draws(real, count, seed), draws(fake, count, seed + 1))

    def of(self, side: str) -> np.ndarray:
        """Return the draws (b, images) of a side."""
        return self.real if side == "real" else self.fake


def draws(images: int, count: int, seed: int) -> np.ndarray:
    """Return how often each image is in each draw, (count, images) int16. Each row sums to `images`."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(count)]).astype(
        np.int16
    )


def around(value: float, replicates: np.ndarray) -> tuple[float, float]:
    """Return value +- 1.96 standard deviations of the replicates; NaN, from a draw with too few rows, is ignored.

    For distances, whose bootstrap mean is above the estimate (a draw repeats rows, so its covariance is smaller in
    rank): percentiles would exclude the estimate itself.
    """
    known = replicates[np.isfinite(replicates)]
    half = 1.96 * float(np.std(known, ddof=1)) if len(known) > 1 else np.nan
    return value - half, value + half


def percentiles(replicates: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of the replicates; NaN, from a draw without any hand, is ignored."""
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def ratio_draws(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return sum over sum for each draw, (b,): sums (n,) and counts (n,) per image, weights (b, n).

    This is the mean of a score over hands, of which an image has up to two. NaN for a draw with a count of 0.
    """
    totals = weights @ np.asarray(counts, dtype=np.float64)
    return np.asarray(
        np.divide(
            weights @ np.asarray(sums, dtype=np.float64), totals, out=np.full(len(weights), np.nan), where=totals > 0
        )
    )
