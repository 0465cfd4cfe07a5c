"""Bootstrap intervals: how much a metric varies with the images that were drawn.

Images are drawn with replacement, each with all its hands. A draw is a vector of weights, so one draw
serves every metric of a set. A base and a tuned set from the same prompts and seeds share their draws: the interval of
their difference then excludes the variation that both have in common.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
Z = 1.959963984540054  # of the normal distribution, for this level
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


def share_around(value: float, replicates: np.ndarray, count: int) -> tuple[float, float]:
    """Return `around` within 0 and 1 for a share of `count` rows, at least as wide as Wilson's interval.

    For precision and recall, whose draws vary more than their rows, but not at all where every row is in or out.
    """
    (low, high), (least, most) = around(value, replicates), wilson(round(value * count), count)
    return max(0.0, min(low, least)), min(1.0, max(high, most))


def square_and_add(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float]:
    """Return the interval of a difference of two estimates (value, low, high) that are treated as independent.

    (Zou and Donner 2008, "Construction of confidence limits about effect measures: a general approach"; for shares
    with Wilson's intervals it is Newcombe's method 10 without the correlation)
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return a - b - float(np.hypot(a - a_low, b_high - b)), a - b + float(np.hypot(a_high - a, b - b_low))


def percentiles(replicates: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of the replicates; NaN, from a draw without any hand, is ignored."""
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the interval of a share by Wilson's score: unlike percentiles it is not a point at 0 or at all images.

    (Wilson 1927, "Probable inference, the law of succession, and statistical inference")
    """
    share, z2 = right / count, Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return float(middle - half) if right else 0.0, float(middle + half) if right < count else 1.0


def share_difference(tuned: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Return the interval of the difference of two shares on the same images; right (n,) or wrong on each side.

    (Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10)
    """
    count, (first, second) = len(tuned), (int(side.sum()) for side in (tuned, base))
    both = int((tuned * base).sum())
    neither, determinant = count - first - second + both, 0.0
    products = first * (count - first) * second * (count - second)
    if products:
        determinant = both * neither - (first - both) * (second - both)
        determinant = max(determinant - count / 2, 0.0) if determinant > 0 else determinant
    correlation = determinant / np.sqrt(products) if products else 0.0
    (low1, high1), (low2, high2) = wilson(first, count), wilson(second, count)
    p1, p2 = first / count, second / count

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a**2 - 2 * correlation * a * b + b**2, 0.0)))

    return p1 - p2 - reach(p1 - low1, high2 - p2), p1 - p2 + reach(high1 - p1, p2 - low2)


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
