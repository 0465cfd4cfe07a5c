"""Which hand of each photograph makes the gesture: the one that agrees best with those of the other photographs.

A hand is compared by its 21 landmarks in the picture: moved to their middle, scaled to unit size, mirrored where that
fits better (a left hand is a right one's mirror image), and turned by at most 30 degrees. The reference is the median
of the hands that agree. Pure functions on arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Hand = np.ndarray  # (21, 2): landmarks in units that are equal in both directions

MARGIN = 0.03  # of a box on each side, in longer sides of the box of its landmarks (benchmarks/photo_boxes.py)
AGREES = 0.30  # largest distance of a hand that agrees, in root mean squares of its landmarks from their middle
FEWEST = 4  # photographs with hands; fewer have no majority

_MOST_TURNED = np.pi / 6
_SAMPLE = 150  # photographs among which the first reference is searched
_ROUNDS = 4
_LEAST_SHARE, _LEAST = 0.1, 3  # of the photographs: so many that agree among themselves show another gesture


@dataclass(frozen=True)
class Agreement:
    """The hand of each photograph that makes the gesture. Lists have one entry per photograph."""

    chosen: list[int]  # number of the hand, -1 without any
    distances: list[float]  # of that hand from the reference, 0 where nothing was compared
    agrees: list[bool]
    other: list[int]  # photographs that agree with each other, but not with most: probably another gesture
    compared: bool  # False: there are too few photographs, and the largest hand is chosen


def agreement(photographs: Sequence[np.ndarray]) -> Agreement:
    """Choose a hand in each photograph; entries are arrays (hands, 21, 2)."""
    with_hands = [number for number, hands in enumerate(photographs) if len(hands)]
    if len(with_hands) < FEWEST:
        chosen = [int(np.argmax([_area(hand) for hand in hands])) if len(hands) else -1 for hands in photographs]
        return Agreement(chosen, [0.0] * len(chosen), [number >= 0 for number in chosen], [], False)
    chosen, distances = _chosen(photographs, _reference(photographs, with_hands))
    agrees = [number >= 0 and distance <= AGREES for number, distance in zip(chosen, distances, strict=True)]
    different = [number for number in with_hands if not agrees[number]]
    return Agreement(chosen, distances, agrees, _other_gesture(photographs, different, len(with_hands)), True)


def box_of(hand: Hand, aspect: float, margin: float = MARGIN) -> list[float]:
    """Return the box [x, y, w, h] of a hand in fractions of its image: that of its landmarks and a margin.

    `hand` is in units of the image's height, `aspect` the image's width by its height. The margin is a share of the
    longer side of the landmarks' box; the result is clipped to the image.
    """
    low, high = hand.min(axis=0), hand.max(axis=0)
    around = margin * float((high - low).max())
    low, high = ((corner / [aspect, 1.0]).clip(0, 1) for corner in (low - around, high + around))
    return [float(value) for value in (*low, *(high - low))]


def distances_to(hands: np.ndarray, reference: Hand) -> tuple[np.ndarray, np.ndarray]:
    """Return how far hands (n, 21, 2) are from a reference, (n,), and the hands as they were compared (n, 21, 2)."""
    plain = _normalised(hands)
    tried = np.stack([plain, plain * [-1.0, 1.0]])  # (2, n, 21, 2)
    cross = tried[..., 0] * reference[:, 1] - tried[..., 1] * reference[:, 0]
    angle = np.arctan2(cross.sum(-1), (tried * reference).sum((-1, -2))).clip(-_MOST_TURNED, _MOST_TURNED)  # (2, n)
    cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
    turned = np.stack([tried[..., 0] * cos - tried[..., 1] * sin, tried[..., 0] * sin + tried[..., 1] * cos], axis=-1)
    distance = np.linalg.norm(turned - reference, axis=-1).mean(-1)  # (2, n)
    better = distance.argmin(axis=0)
    numbers = np.arange(len(hands))
    return distance[better, numbers], turned[better, numbers]


def _reference(photographs: Sequence[np.ndarray], with_hands: list[int]) -> Hand:
    """Return the median of the hands that agree: first with the hand that the others resemble most, then with it."""
    sample = [with_hands[int(place)] for place in np.linspace(0, len(with_hands) - 1, min(_SAMPLE, len(with_hands)))]
    hands = np.concatenate([photographs[number] for number in sample])
    owner = np.repeat(np.arange(len(sample)), [len(photographs[number]) for number in sample])
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    scores = []
    for hand in _normalised(hands):
        nearest = np.minimum.reduceat(distances_to(hands, hand)[0], starts)  # by photograph
        scores.append(np.quantile(nearest, 0.4))  # up to 60 % may show something else
    reference: Hand = _normalised(hands)[int(np.argmin(scores))]
    for _ in range(_ROUNDS):
        chosen, distances = _chosen(photographs, reference)
        near = [number for number in with_hands if distances[number] <= max(AGREES, float(np.median(distances)))]
        aligned = [distances_to(photographs[number][chosen[number]][None], reference)[1][0] for number in near]
        reference = _normalised(np.median(aligned, axis=0)[None])[0]
    return reference


def _chosen(photographs: Sequence[np.ndarray], reference: Hand) -> tuple[list[int], list[float]]:
    chosen, least = [], []
    for hands in photographs:
        distances = distances_to(hands, reference)[0] if len(hands) else np.zeros(0)
        chosen.append(int(distances.argmin()) if len(hands) else -1)
        least.append(float(distances.min(initial=np.inf)) if len(hands) else 0.0)
    return chosen, least


def _other_gesture(photographs: Sequence[np.ndarray], different: list[int], count: int) -> list[int]:
    """Return those of the photographs that do not agree which agree with each other, if they are many enough."""
    least = max(_LEAST, int(np.ceil(_LEAST_SHARE * count)))
    if len(different) < least:
        return []
    among = [photographs[number] for number in different]
    _, distances = _chosen(among, _reference(among, list(range(len(among)))))
    alike = [number for number, distance in zip(different, distances, strict=True) if distance <= AGREES]
    return alike if len(alike) >= least else []


def _normalised(hands: np.ndarray) -> np.ndarray:
    """Return hands (n, 21, 2) around their middle, with a root mean square distance of 1 from it."""
    moved = hands - hands.mean(axis=1, keepdims=True)
    size = np.sqrt((moved**2).sum(-1).mean(-1))[:, None, None]
    normal: np.ndarray = moved / np.maximum(size, 1e-9)
    return normal


def _area(hand: Hand) -> float:
    return float(np.prod(hand.max(axis=0) - hand.min(axis=0)))
