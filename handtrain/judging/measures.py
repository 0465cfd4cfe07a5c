"""The measures of a folder, a row each, with 95 % intervals, and their differences between two folders.

Images are drawn with replacement, each with all its hands; two folders are compared on images of the same names, which
share the draws (`evaluation/bootstrap`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from handtrain.evaluation import bootstrap
from handtrain.evaluation.metrics import NONE
from handtrain.judging.rows import JudgedImage

Entry = dict[str, Any]  # value, low, high (None where there are too few images), n
Sums = tuple[np.ndarray, np.ndarray]  # of each image: the sum (n,) and the number (n,) of what is averaged

SEED = 0


@dataclass(frozen=True)
class Measure:
    """One row of the table. The value is the quotient of the sums over all images."""

    name: str
    unit: str  # of n: images or hands
    lower_is_better: bool | None  # None: neither is
    sums: Callable[[Sequence[JudgedImage]], Sums]
    anatomy: bool = False  # whether it needs p_wrong
    share: bool = False  # whether an image is either right or wrong
    share_of_hands: bool = False  # whether a hand is


def _wrong_images(images: Sequence[JudgedImage]) -> Sums:
    wrong = [max((hand.p_wrong or 0.0 for hand in image.hands), default=1.0) for image in images]
    return np.array(wrong), np.ones(len(images))


def _wrong_hands(images: Sequence[JudgedImage]) -> Sums:
    wrong = [sum(hand.p_wrong or 0.0 for hand in image.hands) for image in images]
    return np.array(wrong), _hands(images)


def _found(images: Sequence[JudgedImage]) -> Sums:
    return (_hands(images) > 0).astype(float), np.ones(len(images))


def _per_image(images: Sequence[JudgedImage]) -> Sums:
    return _hands(images), np.ones(len(images))


def _confidence(images: Sequence[JudgedImage]) -> Sums:
    return np.array([sum(hand.hand.score for hand in image.hands) for image in images]), _hands(images)


def _named(images: Sequence[JudgedImage]) -> Sums:
    return np.array([sum(hand.gesture != NONE for hand in image.hands) for image in images], float), _hands(images)


# A new measure is one row here and one function above. The first one that was computed ranks the folders.
MEASURES = (
    Measure("p_wrong per image", "images", True, _wrong_images, anatomy=True),
    Measure("p_wrong per hand", "hands", True, _wrong_hands, anatomy=True),
    Measure("hand-found rate", "images", False, _found, share=True),
    Measure("hands per image", "images", None, _per_image),
    Measure("known gestures", "hands", None, _named, share_of_hands=True),
    Measure("HAND-CONF", "hands", False, _confidence),
)


def chosen(anatomy: bool, judges: Sequence[str] = ()) -> list[Measure]:
    """Return the measures that are computed with these other judges, in the order of the table."""
    ours = [each for each in MEASURES if anatomy or not each.anatomy]
    return [*ours, *(Measure(f"judge {name}", "hands", True, partial(_by_judge, name)) for name in judges)]


def _by_judge(name: str, images: Sequence[JudgedImage]) -> Sums:
    scores = [[hand.others.get(name) for hand in image.hands] for image in images]
    known = [[score for score in of_image if score is not None] for of_image in scores]
    return np.array([sum(each) for each in known], float), np.array([len(each) for each in known], float)


def summary(images: Sequence[JudgedImage], measures: Sequence[Measure]) -> Entry:
    """Return the counts of a folder's images and, by name, the entry of every measure."""
    read = [image for image in images if image.fault is None]
    names = Counter(hand.gesture for image in read for hand in image.hands)
    return {
        "images": len(read),
        "unreadable": {image.name: image.fault for image in images if image.fault is not None},
        "without_hand": sum(not image.hands for image in read),
        "hands": sum(len(image.hands) for image in read),
        "black": sum(image.black for image in read),
        "one_colour": sum(image.one_colour for image in read),
        "gestures": dict(sorted(names.items(), key=lambda item: (-item[1], item[0]))),
        "measures": {each.name: _entry(each, read) for each in measures},
    }


def difference(
    first: Sequence[JudgedImage], second: Sequence[JudgedImage], measures: Sequence[Measure]
) -> Entry | None:
    """Return second minus first for every measure on the images of the same names, None without any."""
    sides = [{image.name: image for image in images if image.fault is None} for images in (first, second)]
    names = [name for name in sides[0] if name in sides[1]]
    if not names:
        return None
    pair = [[side[name] for name in names] for side in sides]
    return {"images": len(names), "measures": {each.name: _difference(each, *pair) for each in measures}}


def _entry(measure: Measure, images: Sequence[JudgedImage]) -> Entry:
    sums, counts = measure.sums(images)
    if not counts.sum():
        return {"value": None, "low": None, "high": None, "n": 0}
    if measure.share:
        interval = bootstrap.wilson(int(sums.sum()), len(images))
    elif measure.share_of_hands:
        interval = _around_share(sums, counts)
    else:
        interval = bootstrap.percentiles(_replicates(sums, counts))
    return _bounded(float(sums.sum() / counts.sum()), interval, counts)


def _difference(measure: Measure, first: Sequence[JudgedImage], second: Sequence[JudgedImage]) -> Entry:
    sides = [measure.sums(images) for images in (first, second)]
    if not all(counts.sum() for _, counts in sides):
        return {"value": None, "low": None, "high": None, "n": 0}
    before, after = (float(sums.sum() / counts.sum()) for sums, counts in sides)
    if measure.share:
        interval = bootstrap.share_difference(sides[1][0], sides[0][0])
    elif measure.share_of_hands and {before, after} & {0.0, 1.0}:  # the draws of such a side do not vary
        interval = bootstrap.square_and_add((after, *_around_share(*sides[1])), (before, *_around_share(*sides[0])))
    else:
        interval = bootstrap.percentiles(_replicates(*sides[1]) - _replicates(*sides[0]))
    return _bounded(after - before, interval, min((counts for _, counts in sides), key=np.count_nonzero))


def _around_share(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the interval of a share of hands, which is not a point at 0 or at all hands."""
    return bootstrap.share_around(float(sums.sum() / counts.sum()), _replicates(sums, counts), int(counts.sum()))


def _replicates(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the quotient (draws,) in each draw; the draws of sets of one size are the same."""
    return bootstrap.ratio_draws(sums, counts, bootstrap.draws(len(sums), bootstrap.MEAN_DRAWS, SEED))


def _bounded(value: float, interval: tuple[float, float], counts: np.ndarray) -> Entry:
    """Return an entry; fewer than two images with anything to average give no interval."""
    known = np.count_nonzero(counts) > 1 and bool(np.isfinite(interval).all())
    low, high = interval if known else (None, None)
    return {"value": value, "low": low, "high": high, "n": int(counts.sum())}


def _hands(images: Sequence[JudgedImage]) -> np.ndarray:
    return np.array([len(image.hands) for image in images], dtype=float)
