"""The metrics as functions of arrays: Frechet distance, KID, CMMD, precision and recall, and two on hand landmarks.

Distances take optional weights, the number of times that each row counts: a bootstrap draw is a weight vector (see
`bootstrap`), and without a draw every weight is 1. Computed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KID_SUBSETS = 100  # Binkowski et al. 2018, and the released code
KID_SUBSET = 1000  # rows of a subset, or all rows if there are fewer
CMMD_SIGMA, CMMD_SCALE = 10, 1000  # Jayasumana et al. 2024, and their code
BALL = 3  # the radius reaches to this neighbour (Kynkaanniemi et al. 2019, and torch-fidelity)
LEAST_HANDS = 200  # a 20 x 20 covariance of fewer hands is mostly noise
NEIGHBOURS = 5
_NEAREST = 32  # neighbours of a row that are kept: fewer than 3 of them in a draw has a probability of 1e-11
NONE = "none"  # the name of every unknown gesture

_FINGERS = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))  # MediaPipe's numbering
_THUMB, _INDEX, _MIDDLE, _RING, _LITTLE = range(5)
_SPREADS = ((_THUMB, _INDEX), (_INDEX, _MIDDLE), (_MIDDLE, _RING), (_RING, _LITTLE), (_THUMB, _LITTLE))


def frechet_distance(
    x: np.ndarray, y: np.ndarray, x_weights: np.ndarray | None = None, y_weights: np.ndarray | None = None
) -> float:
    """Return the Frechet distance between Gaussians fitted to rows x (n, d) and y (m, d) (Heusel et al. 2017).

    The covariances are never multiplied: with S = A^T A the trace of the root of S_x S_y is the sum of the singular
    values of A_x A_y^T, which stays exact where there are fewer rows than columns.
    """
    x_mean, x_root = _mean_and_root(x, x_weights)
    y_mean, y_root = _mean_and_root(y, y_weights)
    shared = np.linalg.svd(x_root @ y_root.T, compute_uv=False).sum()
    difference = x_mean - y_mean
    return float(difference @ difference + (x_root**2).sum() + (y_root**2).sum() - 2 * shared)


def frechet_bias(x: np.ndarray, y: np.ndarray, seed: int = 0) -> float:
    """Return by how much the Frechet distance of so few rows exceeds that of infinitely many, estimated.

    The distance is linear in 1/n (Chong and Forsyth 2020): the bias is the slope of a straight line through the
    distances of parts of both sets over 1/share. A negative slope is noise and counts as 0.
    """
    rng = np.random.default_rng(seed)
    points = [(1.0, frechet_distance(x, y))]
    for share in (0.7, 0.7, 0.5, 0.5, 0.5, 0.5):
        parts = [rows[rng.permutation(len(rows))[: max(2, round(share * len(rows)))]] for rows in (x, y)]
        points.append((1 / share, frechet_distance(*parts)))
    inverse, distances = np.asarray(points).T
    slope = float(np.polyfit(inverse, distances, deg=1)[0])
    return max(slope, 0.0)


Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (n, d) and (m, d) to similarities (n, m)


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return KID's kernel of rows (n, d) and (m, d), (n, m)."""
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return CMMD's kernel of rows (n, d) and (m, d), (n, m): sigma is 10."""
    return np.asarray(np.exp(-_squared_distances(x, y) / (2 * CMMD_SIGMA**2)))


@dataclass(frozen=True)
class Kid:
    """A kernel Inception distance."""

    value: float  # mean over the subsets
    spread: float  # standard deviation over the subsets; 0 where one subset holds all rows
    subset: int  # rows of a subset


def kid(x: np.ndarray, y: np.ndarray, biased: bool = False, seed: int = 2020) -> Kid:
    """Return the kernel Inception distance of rows x (n, d) and y (m, d): 100 subsets of min(1000, n, m).

    `biased` keeps the kernel's diagonals, as the released code does; it then cannot reach 0. The default seed and the
    order of the draws are torch-fidelity's, so that the same features give the same number.
    """
    size = min(KID_SUBSET, len(x), len(y))
    rng = np.random.RandomState(seed)
    count = 1 if size == len(x) == len(y) else KID_SUBSETS  # all subsets are the whole set: one is enough
    values = []
    for _ in range(count):
        x_rows, y_rows = rng.choice(len(x), size, replace=False), rng.choice(len(y), size, replace=False)
        values.append(mmd(x[x_rows], y[y_rows], biased))
    return Kid(float(np.mean(values)), float(np.std(values)), size)


def mmd(x: np.ndarray, y: np.ndarray, biased: bool) -> float:
    """Return the squared maximum mean discrepancy of rows x (n, d) and y (m, d) for the cubic kernel."""
    ones = np.ones((1, len(x))), np.ones((1, len(y)))
    return float(mmd_draws(x, y, *ones, biased)[0])


def mmd_draws(x: np.ndarray, y: np.ndarray, x_draws: np.ndarray, y_draws: np.ndarray, biased: bool) -> np.ndarray:
    """Return the squared discrepancy (b,) for each pair of weight vectors, x_draws (b, n) and y_draws (b, m).

    The unbiased value leaves out pairs of a row with itself, also where a draw holds it twice. The kernel is computed
    block by block, once for all draws: memory stays flat at 10,000 rows. NaN where a draw holds too few rows.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    within = [_mean_within(rows, draws, biased) for rows, draws in ((x, x_draws), (y, y_draws))]
    return np.asarray(within[0] + within[1] - 2 * _mean_between(x, y, x_draws, y_draws, cubic))


def cmmd_draws(x: np.ndarray, y: np.ndarray, x_draws: np.ndarray, y_draws: np.ndarray) -> np.ndarray:
    """Return CMMD (b,) of CLIP features x (n, d) and y (m, d) of length 1, for weights x_draws (b, n), y_draws (b, m).

    The biased squared discrepancy for a Gaussian kernel, times 1,000 (Jayasumana et al. 2024, "Rethinking FID: Towards
    a Better Evaluation Metric for Image Generation"; google-research/cmmd, distance.py). NaN for a draw without rows.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    within = [_mean_between(rows, rows, draws, draws, gaussian) for rows, draws in ((x, x_draws), (y, y_draws))]
    return np.asarray(CMMD_SCALE * (within[0] + within[1] - 2 * _mean_between(x, y, x_draws, y_draws, gaussian)))


def coverage_draws(
    points: np.ndarray, centers: np.ndarray, point_draws: np.ndarray, center_draws: np.ndarray
) -> np.ndarray:
    """Return the share (b,) of points (n, d) within a ball around any of the centers (m, d), for each pair of weights.

    A ball reaches to the third nearest other center. Generated points and real centers give precision, real points and
    generated centers recall (Kynkaanniemi et al. 2019, "Improved precision and recall metric for assessing generative
    models"). In a draw the centers with weight 0 are absent and one with weight 2 is still one center, since a row
    that is its own neighbour would have a ball without a size. NaN for a draw without points.
    """
    points, centers = np.asarray(points, dtype=np.float64), np.asarray(centers, dtype=np.float64)
    radii = _squared_radii(centers, center_draws)  # (b, m)
    inside, totals = np.zeros(len(radii)), point_draws.sum(axis=1, dtype=np.float64)
    for start in range(0, len(points), 1024):
        distances = _squared_distances(points[start : start + 1024], centers)  # (block, m)
        for draw, radius in enumerate(radii):
            within = (distances <= radius).any(axis=1)  # (block,)
            inside[draw] += within @ point_draws[draw, start : start + 1024].astype(np.float64)
    return _ratio(inside, totals)


def joint_angles(points: np.ndarray) -> np.ndarray:
    """Return 20 angles (n, 20) in radians of hands (n, 21, 3): 15 bends, 4 spreads, thumb to little finger.

    A bend is the angle between consecutive bones of a finger, the first from wrist to knuckle; a spread is the angle
    between two fingers' first phalanges. Points are in any unit that is the same on all axes.
    """
    chains = np.stack([points[:, (0, *finger)] for finger in _FINGERS], axis=1)  # (n, 5, 5, 3)
    bones = np.diff(chains, axis=2)  # (n, 5, 4, 3)
    bends = _angle(bones[:, :, :-1], bones[:, :, 1:]).reshape(len(points), 15)  # (n, 15)
    first, second = (list(side) for side in zip(*_SPREADS, strict=True))
    return np.concatenate([bends, _angle(bones[:, first, 1], bones[:, second, 1])], axis=1)  # (n, 20)


@dataclass(frozen=True)
class GestureJudge:
    """Names the gesture of a hand by its five nearest neighbours among hands whose gesture is known."""

    hands: np.ndarray  # (n, d) features, such as the 63 normalised landmarks
    names: np.ndarray  # (n,) the gesture of each
    threshold: float  # mean distance to the neighbours above which a gesture is unknown

    @classmethod
    def fit(cls, hands: np.ndarray, names: np.ndarray, percentile: float = 95) -> "GestureJudge":
        """Return a judge for known hands (n, d); the threshold is a percentile of their mean distances."""
        assert len(hands) > NEIGHBOURS, f"{len(hands)} hands are too few for {NEIGHBOURS} neighbours"
        own = np.concatenate(
            [
                _nearest(hands[i : i + 512], hands, skip=np.arange(i, min(i + 512, len(hands))))[1]
                for i in range(0, len(hands), 512)
            ]
        )
        return cls(hands, names, float(np.percentile(own.mean(axis=1), percentile)))

    def name(self, hands: np.ndarray) -> np.ndarray:
        """Return each hand's (n, d) gesture: the most frequent of its neighbours, a tie to the nearest, or `none`."""
        if not len(hands):
            return np.empty(0, dtype=object)
        order, distances = _nearest(hands, self.hands)
        voted = [_vote(self.names[row]) for row in order]
        unknown = distances.mean(axis=1) > self.threshold
        return np.where(unknown, NONE, np.asarray(voted, dtype=object))


def _mean_and_root(rows: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,) and a matrix A (k, d) with A^T A the sample covariance, k no more than needed."""
    rows = np.asarray(rows, dtype=np.float64)
    if weights is None:
        weights = np.ones(len(rows))
    rows, weights = rows[weights > 0], weights[weights > 0].astype(np.float64)  # a draw holds 63 % of the rows
    total = weights.sum()
    assert total > 1, "a covariance needs two rows"
    mean = weights @ rows / total
    root = (rows - mean) * np.sqrt(weights / (total - 1))[:, None]  # (n, d)
    if len(root) <= root.shape[1]:
        return mean, root
    covariance = root.T @ root  # (d, d)
    try:
        return mean, np.linalg.cholesky(covariance).T
    except np.linalg.LinAlgError:  # a column that does not vary
        values, vectors = np.linalg.eigh(covariance)
        return mean, (vectors * np.sqrt(np.clip(values, 0, None))).T


def _mean_within(rows: np.ndarray, draws: np.ndarray, biased: bool) -> np.ndarray:
    if biased:
        return _mean_between(rows, rows, draws, draws, cubic)
    own = (np.einsum("nd,nd->n", rows, rows) / rows.shape[1] + 1) ** 3  # (n,)
    squares = draws.astype(np.float64) ** 2
    sums = _kernel_sums(rows, rows, draws, draws, cubic) - squares @ own
    return _ratio(sums, draws.sum(axis=1, dtype=np.float64) ** 2 - squares.sum(axis=1))


def _mean_between(x: np.ndarray, y: np.ndarray, x_draws: np.ndarray, y_draws: np.ndarray, kernel: Kernel) -> np.ndarray:
    pairs = x_draws.sum(axis=1, dtype=np.float64) * y_draws.sum(axis=1, dtype=np.float64)
    return _ratio(_kernel_sums(x, y, x_draws, y_draws, kernel), pairs)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return sums over counts (b,), NaN for a count of 0."""
    return np.asarray(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))


def _kernel_sums(x: np.ndarray, y: np.ndarray, x_draws: np.ndarray, y_draws: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Return the sum over all pairs of weight times kernel, (b,)."""
    sums = np.zeros(len(x_draws))
    for start in range(0, len(x), 1024):
        part = slice(start, start + 1024)
        similarities = kernel(x[part], y)  # (block, m)
        sums += np.einsum("bn,nb->b", x_draws[:, part].astype(np.float64), similarities @ y_draws.T.astype(np.float64))
    return sums


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the squared distances (n, m) between rows (n, d) and (m, d)."""
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.asarray(np.clip(squares, 0, None))


def _squared_radii(centers: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the squared distance (b, m) of each center to its third nearest other center of a draw (b, m).

    -1 for a center that is absent from the draw or has fewer neighbours there: no distance is below that.
    """
    kept = min(_NEAREST, len(centers) - 1)
    order, distances = np.empty((len(centers), kept), int), np.empty((len(centers), kept))
    for start in range(0, len(centers), 1024):
        squares = _squared_distances(centers[start : start + 1024], centers)
        rows = np.arange(len(squares))
        squares[rows, start + rows] = np.inf  # not its own neighbour
        nearest = np.argpartition(squares, kept - 1, axis=1)[:, :kept]
        found = np.take_along_axis(squares, nearest, axis=1)
        by_distance = np.argsort(found, axis=1)
        order[start + rows] = np.take_along_axis(nearest, by_distance, axis=1)
        distances[start + rows] = np.take_along_axis(found, by_distance, axis=1)
    radii = np.full(draws.shape, -1.0)
    for draw, present in enumerate(draws > 0):
        passed = np.cumsum(present[order], axis=1)  # (m, kept): present neighbours up to here
        reached = (passed[:, -1] >= BALL) & present
        third = np.argmax(passed >= BALL, axis=1)
        radii[draw, reached] = distances[reached, third[reached]]
    return radii


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray(np.arccos(np.clip((a * b).sum(axis=-1) / np.maximum(lengths, 1e-12), -1, 1)))


def _nearest(hands: np.ndarray, known: np.ndarray, skip: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and distances (n, 5) of the nearest known hands; `skip` (n,) is an index to ignore for each."""
    squares = (hands**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * hands @ known.T  # (n, m)
    if skip is not None:
        squares[np.arange(len(hands)), skip] = np.inf
    order = np.argsort(squares, axis=1, kind="stable")[:, :NEIGHBOURS]
    return order, np.sqrt(np.clip(np.take_along_axis(squares, order, axis=1), 0, None))


def _vote(names: np.ndarray) -> str:
    candidates, first, counts = np.unique(names, return_index=True, return_counts=True)
    best = counts == counts.max()
    return str(candidates[best][np.argmin(first[best])])
