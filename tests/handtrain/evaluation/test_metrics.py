import math
import subprocess
import sys

import numpy as np
import pytest

from handtrain.evaluation import metrics
from handtrain.evaluation.bootstrap import Draws

TORCH_FIDELITY = """
import sys, numpy as np, torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
x, y = (torch.from_numpy(np.load(file)) for file in sys.argv[1:])
fid = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), False)
kid = kid_features_to_metric(x, y, kid_subsets=100, kid_subset_size=min(1000, len(x), len(y)), verbose=False,
    rng_seed=2020, kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
print(*fid.values(), *kid.values())
"""


def torch_fidelity(x: np.ndarray, y: np.ndarray, folder) -> tuple[float, float, float]:
    files = [folder / "x.npy", folder / "y.npy"]
    for file, rows in zip(files, (x, y), strict=True):
        np.save(file, rows)
    command = [sys.executable, "-c", TORCH_FIDELITY, *map(str, files)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(answer[0]), float(answer[1]), float(answer[2])


PRECISION_AND_RECALL = """
import sys, numpy as np, torch
from torch_fidelity.metric_prc import prc_features_to_metric
fake, real = (torch.from_numpy(np.load(file)) for file in sys.argv[1:])
for cheap in (False, True):
    options = {"prc_neighborhood": 3, "prc_batch_size": 64, "save_cpu_ram": cheap, "verbose": False}
    shares = prc_features_to_metric(fake, real, **options)
    print(shares["precision"], shares["recall"])
"""


def gaussian(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + shift


def whitened(n: int, d: int, seed: int) -> np.ndarray:
    """Rows whose sample mean is exactly 0 and whose sample covariance is exactly the identity."""
    rows = gaussian(n, d, seed)
    rows -= rows.mean(axis=0)
    return rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T


def test_frechet_distance_is_the_closed_form_of_two_gaussians():
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0.5, 2, 6), rng.uniform(0.5, 2, 6)
    x, y = whitened(50, 6, 1) * one, whitened(70, 6, 2) * other + 3.0
    expected = 6 * 3.0**2 + ((one - other) ** 2).sum()  # of diagonal covariances
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_covariances_that_do_not_commute_is_the_closed_form():
    from scipy.linalg import sqrtm

    one, other = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    x, y = (whitened(40, 2, seed) @ np.linalg.cholesky(s).T for seed, s in ((1, one), (2, other)))
    expected = np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [pytest.param(300, 200, 24, marks=pytest.mark.slow), (30, 45, 64)])
def test_both_distances_are_torch_fidelitys(n, m, d, tmp_path):
    x, y = np.abs(gaussian(n, d, 1)), np.abs(gaussian(m, d, 2, 1.2, 0.1))
    fid, kid, spread = torch_fidelity(x, y, tmp_path)
    assert metrics.frechet_distance(x, y) == pytest.approx(fid, rel=1e-6)
    ours = metrics.kid(x, y)
    assert ours.value == pytest.approx(kid, rel=1e-6)
    assert ours.spread == pytest.approx(spread, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(30, 40, 8), (12, 9, 20), (40, 9, 20)])
def test_frechet_distance_is_symmetric_and_zero_to_itself(n, m, d):
    x, y = gaussian(n, d, 1), gaussian(m, d, 2, 2.0, 1.0)
    assert metrics.frechet_distance(x, y) == pytest.approx(metrics.frechet_distance(y, x), rel=1e-10)
    assert metrics.frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)


def test_a_column_that_never_varies_changes_nothing():
    x, y = gaussian(50, 5, 1), gaussian(60, 5, 2)
    still = np.ones((60, 1))
    with_column = metrics.frechet_distance(np.hstack([x, still[:50]]), np.hstack([y, still]))
    assert with_column == pytest.approx(metrics.frechet_distance(x, y), rel=1e-6)


@pytest.mark.parametrize("d", [4, 80])
def test_a_weight_of_two_is_a_row_twice(d):
    x, y = gaussian(30, d, 1), gaussian(40, d, 2, 1.5)
    rng = np.random.default_rng(3)
    wx, wy = rng.integers(0, 3, 30), rng.integers(0, 3, 40)
    assert metrics.frechet_distance(x, y, wx, wy) == pytest.approx(
        metrics.frechet_distance(np.repeat(x, wx, axis=0), np.repeat(y, wy, axis=0)), rel=1e-8
    )
    biased = metrics.mmd_draws(x, y, wx[None], wy[None], biased=True)[0]
    assert biased == pytest.approx(
        metrics.mmd(np.repeat(x, wx, axis=0), np.repeat(y, wy, axis=0), biased=True), rel=1e-8
    )


@pytest.mark.parametrize(
    ("n", "m", "d", "scale"), [(60, 45, 6, 0.8), pytest.param(90, 150, 40, 1.1, marks=pytest.mark.slow)]
)
def test_precision_and_recall_are_torch_fidelitys(n, m, d, scale, tmp_path):
    fake, real = gaussian(n, d, 1, scale, 0.2), gaussian(m, d, 2)
    files = [tmp_path / "fake.npy", tmp_path / "real.npy"]
    for file, rows in zip(files, (fake, real), strict=True):
        np.save(file, rows)
    command = [sys.executable, "-c", PRECISION_AND_RECALL, *map(str, files)]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = [coverage(fake, real), coverage(real, fake)]
    assert ours == pytest.approx([float(word) for word in theirs[:2]], abs=1e-4)
    assert ours == pytest.approx([float(word) for word in theirs[2:]], abs=1e-4)
    assert ours[0] != ours[1]  # an exchange of real and generated rows would be seen


def coverage(points: np.ndarray, centers: np.ndarray) -> float:
    once = np.ones((1, len(points))), np.ones((1, len(centers)))
    return metrics.coverage_draws(points, centers, *once)[0]


def test_coverage_does_not_depend_on_the_blocks_it_is_computed_in():
    points, centers = gaussian(1500, 2, 1), gaussian(1300, 2, 2, 0.2)
    distances = np.linalg.norm(points[:, None] - centers[None], axis=2)
    radii = np.sort(np.linalg.norm(centers[:, None] - centers[None], axis=2), axis=1)[:, 3]
    assert coverage(points, centers) == pytest.approx((distances <= radii).any(axis=1).mean(), abs=1e-12)


def test_a_draw_covers_like_its_own_centers_and_counts_its_points():
    points, centers = gaussian(80, 4, 1, 1.2), gaussian(70, 4, 2)
    rng = np.random.default_rng(3)
    point_draw, center_draw = rng.integers(0, 3, (1, 80)), rng.integers(0, 3, (1, 70))
    drawn = metrics.coverage_draws(points, centers, point_draw, center_draw)[0]
    repeated = np.repeat(points, point_draw[0], axis=0)
    assert drawn == pytest.approx(coverage(repeated, centers[center_draw[0] > 0]), abs=1e-12)


def test_the_draws_of_a_coverage_vary_as_its_samples_do():
    """Truth by simulation: the spread of recall over independent samples."""
    once = np.ones((1, 120))
    values, spreads = [], []
    for seed in range(60):
        real, fake = gaussian(120, 6, seed), gaussian(120, 6, 1000 + seed, 0.8)
        draws = Draws.make(120, 120, 40, seed)
        values.append(metrics.coverage_draws(real, fake, once, once)[0])
        spreads.append(metrics.coverage_draws(real, fake, draws.real, draws.fake).std(ddof=1))
    assert np.mean(spreads) == pytest.approx(np.std(values, ddof=1), rel=0.25)


def unit_rows(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rows = gaussian(n, d, seed, shift=shift)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "m", "shift"), [(23, 31, 0.1), (1100, 40, 0.0)])
def test_cmmd_is_an_independent_program(n, m, shift):
    """Pair by pair from the paper: biased, sigma 10, times 1,000; our own function never forms single pairs."""
    x, y = unit_rows(n, 16, 1), unit_rows(m, 16, 2, shift)

    def mean(rows, others):
        pairs = [math.exp(-float(((a - b) ** 2).sum()) / 200) for a in rows for b in others]
        return math.fsum(pairs) / len(pairs)

    if n > 1000:
        mean = lambda a, b: np.exp(-((a[:, None] - b[None]) ** 2).sum(axis=2) / 200).mean()  # noqa: E731
    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    once = np.ones((1, n)), np.ones((1, m))
    assert metrics.cmmd_draws(x, y, *once)[0] == pytest.approx(expected, rel=1e-9)


def test_a_cmmd_weight_of_two_is_a_row_twice():
    x, y = unit_rows(30, 8, 1), unit_rows(40, 8, 2, 0.3)
    rng = np.random.default_rng(3)
    wx, wy = rng.integers(0, 3, (1, 30)), rng.integers(0, 3, (1, 40))
    x2, y2 = np.repeat(x, wx[0], axis=0), np.repeat(y, wy[0], axis=0)
    expected = metrics.cmmd_draws(x2, y2, np.ones((1, len(x2))), np.ones((1, len(y2))))
    assert metrics.cmmd_draws(x, y, wx, wy) == pytest.approx(expected, rel=1e-8)


def brute_force_mmd(x: np.ndarray, y: np.ndarray, biased: bool) -> float:
    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if biased or i != j]
        return sum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * between


@pytest.mark.parametrize("biased", [False, True])
def test_mmd_is_the_sum_over_all_pairs(biased):
    x, y = gaussian(11, 5, 1), gaussian(14, 5, 2, 1.3, 0.2)
    assert metrics.mmd(x, y, biased) == pytest.approx(brute_force_mmd(x, y, biased), rel=1e-10)
    assert metrics.mmd(y, x, biased) == pytest.approx(metrics.mmd(x, y, biased), rel=1e-10)


def test_mmd_does_not_depend_on_the_blocks_it_is_computed_in():
    x, y = gaussian(2500, 3, 1), gaussian(1100, 3, 2, 1.1)
    kernel = lambda a, b: (a @ b.T / 3 + 1) ** 3  # noqa: E731
    whole = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
    assert metrics.mmd(x, y, biased=True) == pytest.approx(whole, rel=1e-9)


def test_unbiased_kid_of_one_distribution_is_zero_on_average_and_biased_is_not():
    pairs = [(gaussian(40, 6, seed), gaussian(40, 6, 1000 + seed)) for seed in range(200)]
    unbiased = np.array([metrics.mmd(*pair, biased=False) for pair in pairs])
    biased = np.array([metrics.mmd(*pair, biased=True) for pair in pairs])
    assert abs(unbiased.mean()) < 3 * unbiased.std() / np.sqrt(200)
    assert biased.mean() > 10 * biased.std() / np.sqrt(200)


def test_the_spread_is_zero_where_a_subset_is_the_whole_set():
    x, y = gaussian(50, 4, 1), gaussian(50, 4, 2)
    kid = metrics.kid(x, y)
    assert (kid.spread, kid.subset) == (0.0, 50)
    assert kid.value == pytest.approx(metrics.mmd(x, y, biased=False))
    assert metrics.kid(x, gaussian(60, 4, 3)).spread > 0


def test_the_bias_of_a_small_set_is_its_distance_at_truth_zero():
    """Truth by simulation: the mean distance of two samples of one Gaussian, whose own distance is 0."""
    pairs = [(gaussian(200, 8, seed), gaussian(200, 8, 5000 + seed)) for seed in range(30)]
    distance = np.mean([metrics.frechet_distance(*pair) for pair in pairs])
    bias = np.mean([metrics.frechet_bias(*pair, seed=seed) for seed, pair in enumerate(pairs)])
    assert bias == pytest.approx(distance, rel=0.2)


def test_kid_notices_an_exchange_of_real_and_fake():
    """FID and its bias are symmetric; KID draws its subsets from the real side first."""
    x, y = gaussian(50, 4, 1), gaussian(20, 4, 2)
    assert metrics.kid(x, y).subset == metrics.kid(y, x).subset == 20
    assert metrics.kid(x, y).value != metrics.kid(y, x).value  # the subsets are drawn first from the real side


def flat_hand() -> np.ndarray:
    """A hand with straight fingers, all parallel, above their knuckles; the wrist 100 units below."""
    points = np.zeros((21, 3))
    for number, finger in enumerate(metrics._FINGERS):
        for joint, index in enumerate(finger):
            points[index] = (number, 100 + joint, 0)
    return points


def test_a_flat_hand_has_no_angles_and_a_bent_joint_has_one():
    points = flat_hand()
    angles = metrics.joint_angles(points[None])[0]
    assert angles.shape == (20,)
    assert angles[[1, 2, 4, 5, 7, 8, 10, 11, 13, 14]] == pytest.approx(np.zeros(10), abs=1e-6)
    assert angles[15:] == pytest.approx(np.zeros(5), abs=1e-6)
    points[8] = points[7] + (0, 0, 1)  # the index's last bone at a right angle
    assert metrics.joint_angles(points[None])[0, 5] == pytest.approx(np.pi / 2)
    spread = flat_hand()
    spread[6:9] = spread[5] + np.array([[1, 1, 0], [2, 2, 0], [3, 3, 0]])  # the index points 45 degrees aside
    assert metrics.joint_angles(spread[None])[0, 15:17] == pytest.approx([np.pi / 4, np.pi / 4])


def test_joint_angles_do_not_change_when_a_hand_moves_turns_or_grows():
    points = np.random.default_rng(0).normal(size=(5, 21, 3))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    assert metrics.joint_angles(points @ turn * 7 + 3) == pytest.approx(metrics.joint_angles(points), abs=1e-9)


def judge() -> tuple[metrics.GestureJudge, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = {"call": 0.0, "palm": 3.0}
    hands = np.concatenate([rng.normal(center, 0.1, size=(300, 63)) for center in centers.values()])
    names = np.repeat(list(centers), 300)
    return metrics.GestureJudge.fit(hands, names), hands, names


def test_hands_near_a_gesture_get_its_name_and_far_ones_none():
    rng = np.random.default_rng(9)
    fitted, _, _ = judge()
    hands = np.concatenate(
        [rng.normal(0, 0.1, (100, 63)), rng.normal(3, 0.1, (100, 63)), rng.normal(1.5, 0.1, (50, 63))]
    )
    names = fitted.name(hands)
    assert (names[:100] == "call").mean() > 0.85
    assert (names[100:200] == "palm").mean() > 0.85
    assert set(names[200:]) == {metrics.NONE}
    assert len(fitted.name(np.empty((0, 63)))) == 0


def test_five_in_a_hundred_of_the_known_hands_are_beyond_the_threshold():
    fitted, hands, _ = judge()
    distances = np.sqrt(((hands[:, None] - hands[None]) ** 2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    own = np.sort(distances, axis=1)[:, :5].mean(axis=1)
    assert (own > fitted.threshold).mean() == pytest.approx(0.05, abs=0.002)


def test_a_tie_of_neighbours_goes_to_the_nearest():
    assert metrics._vote(np.array(["ok", "call", "call", "ok", "palm"])) == "ok"
    assert metrics._vote(np.array(["ok", "call", "call", "palm", "call"])) == "call"
