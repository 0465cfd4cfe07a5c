"""Agreement between people, and between people and a score: pure functions of arrays.

Each takes weights (b, n), the number of times that each item counts, and returns b values: a bootstrap draw is a row of
weights, and without a draw every weight is 1 (see `evaluation.bootstrap`).
"""

import numpy as np

_BLOCK = 64  # draws that are computed together: memory stays flat


def alpha_draws(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Krippendorff's alpha for nominal data, (b,), from how often each answer was given to each item (n, k).

    Items with fewer than two answers do not count, so answers may be missing (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability"). NaN without any pair of answers, and if all answers are the same.
    """
    counts = np.where(counts.sum(axis=1, keepdims=True) > 1, counts, 0).astype(np.float64)
    answers = counts.sum(axis=1)  # (n,)
    pairs = answers**2 - (counts**2).sum(axis=1)  # (n,) ordered pairs that disagree
    weights = weights.astype(np.float64)
    total = weights @ answers  # (b,)
    observed = weights @ np.divide(pairs, answers - 1, out=np.zeros(len(pairs)), where=answers > 1)  # (b,)
    expected = total**2 - ((weights @ counts) ** 2).sum(axis=1)  # (b,)
    share = np.divide(observed * (total - 1), expected, out=np.full(len(total), np.nan), where=expected > 0)
    return np.asarray(1 - share)


def auc_draws(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve, (b,): the probability that a positive item has the higher score.

    Equal scores count half. `scores` (n,), `positive` (n,) of bool. NaN where one of the classes is empty.
    """
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)  # of each value in the order
    areas = []
    for start in range(0, len(weights), _BLOCK):
        block = weights[start : start + _BLOCK, order].astype(np.float64)
        high, low = (np.add.reduceat(block * chosen[order], starts, axis=1) for chosen in (positive, ~positive))
        below = np.cumsum(low, axis=1) - low / 2  # (b, values)
        pairs = high.sum(axis=1) * low.sum(axis=1)
        areas.append(np.divide((high * below).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    return np.concatenate(areas)
