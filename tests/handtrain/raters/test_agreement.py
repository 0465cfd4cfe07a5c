"""Alpha and AUC against their definitions, and planted agreement that is recovered."""

from statistics import NormalDist

import numpy as np
import pytest

from handtrain.raters.agreement import alpha_draws, auc_draws


def once(n: int) -> np.ndarray:
    return np.ones((1, n))


def alpha_by_pairs(answers: list[list[int]]) -> float:
    """Krippendorff's alpha as it is defined: over all pairs of answers, within items and among all."""
    items = [item for item in answers if len(item) > 1]
    everything = [answer for item in items for answer in item]
    n = len(everything)
    observed = sum(
        sum(a != b for i, a in enumerate(item) for j, b in enumerate(item) if i != j) / (len(item) - 1)
        for item in items
    )
    expected = sum(a != b for i, a in enumerate(everything) for j, b in enumerate(everything) if i != j)
    return 1 - (observed / n) / (expected / (n * (n - 1)))


def counts_of(answers: list[list[int]], kinds: int) -> np.ndarray:
    return np.array([[item.count(kind) for kind in range(kinds)] for item in answers])


def test_alpha_is_krippendorffs_example():
    """Krippendorff 2011, section C: nominal data, four observers, twelve units, missing answers: alpha is 0.743."""
    observers = (
        (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
        (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
    )
    answers = [[answer for answer in item if answer is not None] for item in zip(*observers, strict=True)]
    assert alpha_draws(counts_of(answers, 6), once(12))[0] == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_its_definition_with_missing_answers_and_weights():
    rng = np.random.default_rng(0)
    answers = [rng.integers(0, 3, rng.integers(0, 5)).tolist() for _ in range(40)]
    weights = rng.integers(0, 3, 40)
    repeated = [item for item, weight in zip(answers, weights, strict=True) for _ in range(weight)]
    found = alpha_draws(counts_of(answers, 3), np.stack([np.ones(40), weights]))
    assert found == pytest.approx([alpha_by_pairs(answers), alpha_by_pairs(repeated)], abs=1e-12)


def test_alpha_is_1_for_full_agreement_0_by_chance_and_unknown_without_variation():
    assert alpha_draws(np.array([[3, 0], [0, 3], [3, 0]]), once(3))[0] == 1
    chance = np.random.default_rng(1).binomial(2, 0.3, 20_000)
    assert alpha_draws(np.stack([2 - chance, chance], axis=1), once(20_000))[0] == pytest.approx(0, abs=0.02)
    assert np.isnan(alpha_draws(np.array([[2, 0], [3, 0]]), once(2))[0])
    assert np.isnan(alpha_draws(np.array([[1, 0], [0, 1]]), once(2))[0])


@pytest.mark.parametrize("right", [0.98, 0.9, 0.75])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_planted_raters_are_recovered_within_0_02(right, missing):
    """Raters who answer rightly with a known probability: alpha is 1 - 2 r (1 - r) over the chance to differ."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = rng.random(2000) < 0.4
        answers = truth[:, None] ^ (rng.random((2000, 6)) >= right)
        present = rng.random((2000, 6)) >= missing
        counts = np.stack([(present & ~answers).sum(axis=1), (present & answers).sum(axis=1)], axis=1)
        share = 0.4 * right + 0.6 * (1 - right)
        planted = 1 - right * (1 - right) / (share * (1 - share))
        assert alpha_draws(counts, once(2000))[0] == pytest.approx(planted, abs=0.02)


def test_auc_is_the_share_of_pairs_in_order_with_ties_and_weights():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.4
    weights = rng.integers(0, 3, 60)

    def by_pairs(kept):
        pairs = [(a, b) for a in scores[kept & positive] for b in scores[kept & ~positive]]
        return np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])

    repeated = np.repeat(np.arange(60), weights)
    pairs = [(scores[a], scores[b]) for a in repeated for b in repeated if positive[a] and not positive[b]]
    expected = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    found = auc_draws(scores, positive, np.stack([np.ones(60), weights]))
    assert found == pytest.approx([by_pairs(np.ones(60, bool)), expected], abs=1e-12)
    assert np.isnan(auc_draws(scores, np.zeros(60, bool), once(60))[0])
    many = auc_draws(scores, positive, np.repeat(weights[None], 150, axis=0))
    assert many == pytest.approx(np.full(150, expected))


@pytest.mark.parametrize("distance", [0.5, 1.5, 3.0])
def test_a_planted_metric_is_recovered_within_0_02(distance):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        wrong = rng.random(2000) < 0.5
        scores = rng.normal(size=2000) + distance * wrong
        planted = NormalDist().cdf(distance / 2**0.5)
        assert auc_draws(scores, wrong, once(2000))[0] == pytest.approx(planted, abs=0.02)
