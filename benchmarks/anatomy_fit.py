"""The fit of the judge of anatomy, and every metric's score of every hand by a fit that never saw its person."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.anatomy_measures import Measures
from handtrain.judging.anatomy import FINGERS, FLAWS, Weights

Floats = NDArray[np.floating]

FOLDS = 5
_RIDGE = 100.0  # of standardised features
# of the layer that counts fingers: 83.6 % right by folds of the fit's persons, 1 to 10 alike, 77.5 % with 100
_RIDGE_OF_FINGERS = 3.0
_LOGISTIC = 3.0  # ridge of the logistic regressions, of standardised inputs


def auc(wrong: Floats, right: Floats) -> float:
    """Return the probability that a wrong hand has a higher score than a right one; equal scores count half."""
    both = np.concatenate([wrong, right])
    _, place, count = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((ranks[: len(wrong)].sum() - len(wrong) * (len(wrong) + 1) / 2) / (len(wrong) * len(right)))


def fit(data: Measures, seed: int) -> Weights:
    """Fit the linear layer on all hands, and the logistic regression on what layers that never saw a person say."""
    data = data.rows(data.found)
    outputs = by_folds(data, seed, lambda known, new: _linear(known).outputs(new.features))
    factors = logistic(_inputs(outputs, data.stability), data.wrong)
    layer = _linear(data)
    return Weights(layer.mean, layer.scale, layer.linear, factors.astype(np.float32))


def by_folds(data: Measures, seed: int, judge: Callable[[Measures, Measures], Floats]) -> Floats:
    """Return the judgements of all rows, each by a fit on the persons of the other folds."""
    people = np.unique(data.person)
    fold = np.random.default_rng(seed).permutation(len(people)) % FOLDS
    place = fold[np.searchsorted(people, data.person)]
    judged = {number: judge(data.rows(place != number), data.rows(place == number)) for number in range(FOLDS)}
    first = next(iter(judged.values()))
    whole = np.empty((len(place), *first.shape[1:]))
    for number, values in judged.items():
        whole[place == number] = values
    return whole


def logistic(inputs: Floats, wrong: NDArray[np.bool_]) -> Floats:
    """Return the factors and the constant (k + 1,) of a logistic regression on inputs (n, k), by Newton's method."""
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    a = np.column_stack([(inputs - mean) / scale, np.ones(len(inputs))])
    ridge = np.diag([_LOGISTIC] * inputs.shape[1] + [0.0])
    factors = np.zeros(a.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-a @ factors))
        curvature = (a * (p * (1 - p))[:, None]).T @ a + ridge
        factors -= np.linalg.solve(curvature, a.T @ (p - wrong) + ridge @ factors)
    slopes = factors[:-1] / scale
    return np.append(slopes, factors[-1] - slopes @ mean)


def _linear(data: Measures) -> Weights:
    """Return the ridge regression of the truth (1 or -1) on the features, in its dual form: hands are fewer.

    Fingers are counted only where all are extended, so that their columns are fitted on such hands.
    """
    mean, scale = data.features.mean(axis=0), data.features.std(axis=0) + 1e-3
    a = (data.features - mean) / scale
    truth = np.column_stack([data.wrong, data.flaws, data.fingers[:, None] == np.array(FINGERS)])  # (n, 12)
    linear = _ridge(a, truth, _RIDGE)
    fingers = slice(1 + len(FLAWS), None)
    linear[:, fingers] = _ridge(a[data.visible], truth[data.visible][:, fingers], _RIDGE_OF_FINGERS)
    mean, scale, linear = (value.astype(np.float32) for value in (mean, scale, linear))
    return Weights(mean, scale, linear, np.zeros(3, np.float32))


def _ridge(a: Floats, truth: NDArray[Any], strength: float) -> Floats:
    return a.T @ np.linalg.solve(a @ a.T + strength * np.eye(len(a)), truth * 2.0 - 1)


def _inputs(outputs: Floats, signals: Floats) -> Floats:
    return np.column_stack([outputs[:, 0], signals[:, 0]])


def without(data: Measures, flaw: str) -> Measures:
    """Return the rows without the wrong hands that have a flaw."""
    return data.rows(~data.flaws[:, FLAWS.index(flaw)])
