"""The seed of an evaluation draws the intervals of means too; the values do not depend on it."""

import numpy as np
import pytest

from handtrain.evaluation.bootstrap import Draws
from handtrain.evaluation.table import Comparison, _means


def entry(seed, values):
    draws = [Draws.make(len(values), len(values), count, first) for count, first in ((50, seed), (2000, seed + 2))]
    return _means({"fake": values}, Comparison(*draws, seed, None, "no judge"))["fake"]


@pytest.mark.parametrize("count", [12, 40])
def test_a10_the_seed_reaches_the_interval_of_a_landmark_distance_and_not_its_mean(count):
    values = np.random.default_rng(5).gamma(2.0, size=count)
    first, other, again = (entry(seed, values) for seed in (0, 7, 0))
    assert first == again
    assert first["value"] == other["value"] == pytest.approx(values.mean())
    assert (first["low"], first["high"]) != (other["low"], other["high"])
