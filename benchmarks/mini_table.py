"""The tables of the mini benchmark, from the files that its runs wrote.

Intervals are 95 %, over the images: of the mean over a variant's trainings, paired by prompt and noise. They do not
include the variance between trainings; the numbers of every single training are next to them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handdata.markdown import markdown_table
from handdata.readers import read_json, read_jsonl
from handtrain.evaluation import bootstrap, metrics
from handtrain.evaluation.features import Rows

DISTANCE_DRAWS = 200  # bootstrap replicates of a distance
COLOURS = ("background", "sleeve")


@dataclass(frozen=True)
class Hands:
    """The hands in a set of images."""

    names: list[str]  # of the images
    found: np.ndarray  # (n,) 1 where a hand was found
    right: np.ndarray  # (n,) 1 where a hand makes the requested gesture
    angles: Rows  # (k, 20) joint angles, a row for each hand


def read(details: Path, gesture: str) -> dict[str, Hands]:
    """Return the hands that `handtrain evaluate --details` wrote, by side (real, base, fake)."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in read_jsonl(details):
        lines.setdefault(line["side"], []).append(line)
    return {side: _hands(of_side, gesture) for side, of_side in lines.items()}


def _hands(lines: list[dict[str, Any]], gesture: str) -> Hands:
    points = [hand["landmarks"] for line in lines for hand in line["hands"]]
    owner = np.repeat(np.arange(len(lines)), [len(line["hands"]) for line in lines])
    angles = metrics.joint_angles(np.array(points, dtype=np.float64).reshape(-1, 21, 3))
    return Hands(
        [line["image"] for line in lines],
        np.array([float(bool(line["hands"])) for line in lines]),
        np.array([float(any(hand["gesture"] == gesture for hand in line["hands"])) for line in lines]),
        Rows(angles, owner, len(lines)),
    )


@dataclass(frozen=True)
class Change:
    """Means over trainings before and after, with the interval of their difference."""

    before: float
    after: float
    low: float
    high: float
    each: tuple[float, ...]  # the difference in every single training

    def text(self, how: "Measured") -> str:
        """Return it as `before to after (low to high)`."""
        before, after = (f"{how.scale * value:.{how.places}f}" for value in (self.before, self.after))
        return f"{before} to {after}{how.unit} ({self._interval(how)})"

    def short(self, how: "Measured") -> str:
        """Return it as `change (low to high); every training`."""
        change, *each = (f"{how.scale * value:+.{how.places}f}" for value in (self.after - self.before, *self.each))
        return f"{change} ({self._interval(how)}); {', '.join(each)}"

    def _interval(self, how: "Measured") -> str:
        return " to ".join(f"{how.scale * value:+.{how.places}f}" for value in (self.low, self.high))


Measure = Callable[[Sequence[Hands], Sequence[Hands], Hands], Change]


def mean_change(column: Callable[[Hands], np.ndarray]) -> Measure:
    """Return a measure that compares means of one number per image."""

    def measure(before: Sequence[Hands], after: Sequence[Hands], real: Hands) -> Change:
        old, new = (np.array([column(hands) for hands in side]) for side in (before, after))  # (trainings, n)
        draws = bootstrap.draws(new.shape[1], bootstrap.MEAN_DRAWS, 2)
        low, high = bootstrap.percentiles(draws @ (new - old).mean(axis=0) / new.shape[1])
        return Change(old.mean(), new.mean(), low, high, tuple((new - old).mean(axis=1)))

    return measure


def distance_change(before: Sequence[Hands], after: Sequence[Hands], real: Hands) -> Change:
    """Compare landmark distances, each between the images of one training and the real ones."""
    draws = [bootstrap.draws(len(side.names), DISTANCE_DRAWS, seed) for seed, side in ((0, real), (1, after[0]))]

    def of(hands: Hands) -> np.ndarray:
        pairs = [(real.angles.values, hands.angles.values, None, None)]
        pairs += [(*pairs[0][:2], x[real.angles.owner], y[hands.angles.owner]) for x, y in zip(*draws, strict=True)]
        return np.array([metrics.frechet_distance(*pair) for pair in pairs])  # the distance, then its replicates

    of_one = {id(hands): of(hands) for hands in (*before, *after)}  # the base is the same for every training
    old, new = (np.array([of_one[id(hands)] for hands in side]) for side in (before, after))
    change = (new - old).mean(axis=0)
    low, high = bootstrap.around(float(change[0]), change[1:])
    return Change(old[:, 0].mean(), new[:, 0].mean(), low, high, tuple((new - old)[:, 0]))


@dataclass(frozen=True)
class Measured:
    """A measure, and how it is printed."""

    compare: Measure
    scale: float
    places: int
    unit: str


MEASURES = {
    "gesture accuracy": Measured(mean_change(lambda hands: hands.right), 100, 1, " %"),
    "hand-found rate": Measured(mean_change(lambda hands: hands.found), 100, 1, " %"),
    "landmark distance": Measured(distance_change, 1, 2, ""),
}


def tables(runs: dict[tuple[str, str], list[Path]], plain: str) -> Iterator[str]:
    """Yield Markdown tables: tuned against base, then against `plain`. `runs`: folders by gesture and variant."""
    seen = {key: [read(folder / "details.jsonl", key[0]) for folder in folders] for key, folders in runs.items()}
    rows = []
    for (gesture, variant), trainings in seen.items():
        base, fake, real = ([sides[side] for sides in trainings] for side in ("base", "fake", "real"))
        assert all(hands.names == fake[0].names for hands in [*base, *fake]), "images without partners"
        cells = [how.compare([base[0]] * len(fake), fake, real[0]).text(how) for how in MEASURES.values()]
        cells += [_colour(runs[gesture, variant], name) for name in COLOURS]
        rows.append([gesture, variant, str(len(fake)), *cells])
    yield markdown_table(["gesture", "variant", "trainings", *MEASURES, *(f"{name} colour" for name in COLOURS)], rows)
    yield ""
    rows = []
    for (gesture, variant), trainings in seen.items():
        if variant != plain and (gesture, plain) in seen:
            both = min(len(trainings), len(seen[gesture, plain]))
            old, new = ([sides["fake"] for sides in pair[:both]] for pair in (seen[gesture, plain], trainings))
            cells = [how.compare(old, new, trainings[0]["real"]).short(how) for how in MEASURES.values()]
            rows.append([gesture, variant, *cells])
    yield markdown_table(["gesture", "variant", *(f"{name} against {plain}" for name in MEASURES)], rows)
    yield ""
    for gesture in dict.fromkeys(gesture for gesture, _ in seen):
        drawn = next(trainings[0]["real"] for (name, _), trainings in seen.items() if name == gesture)
        yield (
            f"Drawn pictures of {gesture}, the upper limit for a model: gesture accuracy "
            f"{100 * drawn.right.mean():.1f} %, hand-found rate {100 * drawn.found.mean():.1f} %, n {len(drawn.names)}."
        )


def _colour(folders: list[Path], name: str) -> str:
    """Return the difference in a share of colours: its mean over trainings, and the span of all their bootstrap."""
    changes = [read_json(folder / "colours.json")[name]["difference"] for folder in folders]
    low, high = min(change["low"] for change in changes), max(change["high"] for change in changes)
    return f"{100 * np.mean([change['value'] for change in changes]):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
