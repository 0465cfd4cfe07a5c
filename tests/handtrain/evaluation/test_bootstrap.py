import numpy as np
import pytest

from handtrain.evaluation import bootstrap, metrics

TRIALS, DRAWS = 120, 60


def coverage(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def samples(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussians in 3 dimensions whose squared Frechet distance is 3 * (0.5**2 + 0.5**2)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.normal(size=(n, 3)) * 1.5 + 0.5


def test_the_interval_of_a_frechet_distance_covers_the_truth_in_about_95_percent():
    intervals = []
    for trial in range(TRIALS):
        x, y = samples(300, trial)
        draws = [bootstrap.draws(300, DRAWS, 2 * trial + side) for side in (0, 1)]
        replicates = np.array([metrics.frechet_distance(x, y, *pair) for pair in zip(*draws, strict=True)])
        intervals.append(bootstrap.around(metrics.frechet_distance(x, y), replicates))
    assert 0.88 <= coverage(intervals, 1.5) <= 1.0  # 95 % of 120 trials, give or take 3 standard errors


def test_the_interval_of_a_kid_covers_the_truth_in_about_95_percent():
    rng = np.random.default_rng(0)
    big = [np.concatenate([samples(1000, 10_000 + seed)[side] for seed in range(4)]) for side in (0, 1)]
    truth = metrics.mmd(big[0], big[1], biased=False)
    intervals = []
    for trial in range(TRIALS):
        x, y = samples(150, trial)
        draws = [bootstrap.draws(150, DRAWS, int(rng.integers(1 << 30))) for _ in (0, 1)]
        replicates = metrics.mmd_draws(x, y, *draws, biased=False)
        intervals.append(bootstrap.around(metrics.mmd(x, y, biased=False), replicates))
    assert 0.87 <= coverage(intervals, truth) <= 1.0


def test_the_interval_of_a_share_covers_the_truth_in_about_95_percent():
    intervals = []
    for trial in range(TRIALS):
        hits = np.random.default_rng(trial).random(200) < 0.7
        weights = bootstrap.draws(200, 400, trial)
        intervals.append(bootstrap.percentiles(bootstrap.ratio_draws(hits, np.ones(200), weights)))
    assert 0.88 <= coverage(intervals, 0.7) <= 1.0


def test_a_paired_interval_is_narrower_than_two_independent_ones():
    rng = np.random.default_rng(0)
    real, noise = rng.normal(size=(200, 4)), rng.normal(size=(200, 4))
    base, tuned = noise * 1.2 + 0.6, noise * 1.1 + 0.5  # made from the same noise
    real_draws, fake_draws, other = (bootstrap.draws(200, DRAWS, seed) for seed in range(3))

    def width(base_draws: np.ndarray) -> float:
        differences = [
            metrics.frechet_distance(real, tuned, r, f) - metrics.frechet_distance(real, base, r, b)
            for r, f, b in zip(real_draws, fake_draws, base_draws, strict=True)
        ]
        low, high = bootstrap.around(0.0, np.asarray(differences))
        return high - low

    assert width(fake_draws) < 0.7 * width(other)


def test_a_draw_holds_as_many_images_as_there_are_and_is_a_function_of_its_seed():
    draws = bootstrap.draws(50, 20, seed=1)
    assert (draws.sum(axis=1) == 50).all()
    assert np.array_equal(draws, bootstrap.draws(50, 20, seed=1))
    assert not np.array_equal(draws, bootstrap.draws(50, 20, seed=2))


def test_an_interval_holds_the_estimate_although_the_bootstrap_mean_is_above_it():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 40)), rng.normal(size=(60, 40))
    value = metrics.frechet_distance(x, y)
    draws = [bootstrap.draws(60, 40, seed) for seed in (1, 2)]
    replicates = np.array([metrics.frechet_distance(x, y, *pair) for pair in zip(*draws, strict=True)])
    assert replicates.min() > value  # percentiles would leave the estimate out
    low, high = bootstrap.around(value, replicates)
    assert low < value < high


def test_a_draw_without_any_hand_is_ignored():
    weights = np.array([[2, 0], [0, 2], [1, 1]])
    means = bootstrap.ratio_draws(np.array([0.9, 0.0]), np.array([1, 0]), weights)
    assert np.isnan(means[1]) and means[[0, 2]] == pytest.approx([0.9, 0.9])
    assert bootstrap.percentiles(means) == pytest.approx((0.9, 0.9))


def test_the_interval_of_a_share_is_never_narrower_than_wilsons_nor_outside_0_and_1():
    still, wide = np.ones(50), np.linspace(0.5, 1.0, 50)
    assert bootstrap.share_around(1.0, still, 20) == bootstrap.wilson(20, 20)
    low, high = bootstrap.share_around(0.75, wide, 2000)
    assert low == pytest.approx(0.75 - 1.96 * wide.std(ddof=1)) and high == 1.0


def test_square_and_add_is_newcombes_interval_of_two_independent_shares():
    """Newcombe 1998 (independent proportions), table II, example a, method 10: 56/70 and 48/80."""
    first, second = ((right / count, *bootstrap.wilson(right, count)) for right, count in ((56, 70), (48, 80)))
    assert bootstrap.square_and_add(first, second) == pytest.approx((0.0524, 0.3339), abs=5e-5)
