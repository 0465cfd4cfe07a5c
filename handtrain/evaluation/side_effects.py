"""Further image sets of an evaluation, and their metrics: pose error, specificity, retention.

A model that is trained on one gesture may draw it everywhere. `free` are its images of prompts without a gesture,
`free base` those of the base from the same prompts and seeds, `others` its images of prompts with another gesture.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handdata.errors import UserError
from handtrain.data.image_folder import read_records, read_settings
from handtrain.evaluation import bootstrap
from handtrain.evaluation.features import Rows
from handtrain.evaluation.gesture_judge import named
from handtrain.evaluation.hands import Hand
from handtrain.evaluation.image_sets import ImageSet, Preparation, folder_set, partners
from handtrain.evaluation.metrics import GestureJudge

Entry = dict[str, Any]

POSE_ERROR, UNASKED, INSTEAD = "pose error", "gesture without request", "gesture instead of others"
OTHERS, DISTANCE = "accuracy of others", "distance to the base"
LOWER_IS_BETTER = {POSE_ERROR: True, UNASKED: True, DISTANCE: True, INSTEAD: True, OTHERS: False}  # rows of a table


@dataclass(frozen=True)
class Estimate:
    """A value over n images with its interval."""

    n: int
    value: float
    low: float
    high: float

    def record(self) -> dict[str, Any]:
        """Return it as it is written to JSON."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Further:
    """The further image sets of one evaluation, each read once."""

    free: ImageSet | None
    free_base: ImageSet | None
    others: tuple[tuple[str, ImageSet], ...]  # with the gesture that the prompts name

    @classmethod
    def open(cls, free: str | Path | None, free_base: str | Path | None, others: Sequence[str | Path]) -> "Further":
        """Read the folders. Raises `UserError` for one that is missing, or of other images than it should be."""
        if free_base is not None and free is None:
            raise UserError("--free-base needs --free: the images of the trained model from the same prompts and seeds")
        drawn = folder_set(Path(free), "--free") if free else None
        of_base = folder_set(Path(free_base), "--free-base") if free_base else None
        if drawn and of_base:
            drawn, of_base = partners(drawn, of_base)
        named_sets = []
        for folder in map(Path, others):
            gesture = read_settings(folder).get("gesture")
            if gesture is None:
                raise UserError(f"--others {folder}: its images name no gesture; generate them with --gesture")
            named_sets.append((gesture, folder_set(folder, "--others")))
        return cls(drawn, of_base, tuple(named_sets))

    def sets(self) -> dict[str, ImageSet]:
        """Return the sets by name."""
        every = {"free": self.free, "free base": self.free_base}
        every |= {f"others {number}": images for number, (_, images) in enumerate(self.others)}
        return {name: images for name, images in every.items() if images is not None}

    def entries(
        self, rows: dict[str, Rows] | str, prepare: Preparation, gesture: str | None, judge: GestureJudge | str
    ) -> dict[str, Entry]:
        """Return the entries of the metrics whose sets are given, with a reason for those that cannot be computed.

        `rows` are the hands of each set by name, or the reason why they are not known. The distance needs neither
        hands nor a judge.
        """
        if isinstance(rows, str) or isinstance(judge, str) or gesture is None:
            reasons = [each for each in (rows, judge) if isinstance(each, str)]
            reason = reasons[0] if reasons else "the gesture of the images is not known"
            entries = {name: {"not_computed": reason} for name in self._judged()}
        else:
            entries = self._of_hands(rows, gesture, judge)
        if self.free is not None and self.free_base is not None:
            entries[DISTANCE] = _distance_entry(prepare, self.free, self.free_base)
        return {name: entries[name] for name in LOWER_IS_BETTER if name in entries}

    def _judged(self) -> list[str]:
        """Return the metrics of the given sets that need a judge of gestures."""
        return [*([UNASKED] if self.free is not None else []), *([INSTEAD, OTHERS] if self.others else [])]

    def _of_hands(self, rows: dict[str, Rows], gesture: str, judge: GestureJudge) -> dict[str, Entry]:
        names = {name: [named(hands, judge) if hands else [] for hands in of.hands()] for name, of in rows.items()}
        made = {name: makes(of, gesture) for name, of in names.items()}
        entries: dict[str, Entry] = {}
        if self.free is not None:
            entries[UNASKED] = _share_entry(made["free"], made.get("free base"))
        if unknown := sorted({other for other, _ in self.others} - {str(name) for name in judge.names}):
            # without them the judge calls their hands by the nearest gesture that it knows
            reason = f"training hands of {', '.join(unknown)} are missing: name a dataset with them as --landmarks"
            entries[INSTEAD] = entries[OTHERS] = {"not_computed": reason}
        elif self.others:
            right = [makes(names[f"others {number}"], other) for number, (other, _) in enumerate(self.others)]
            instead = [made[f"others {number}"] for number in range(len(self.others))]
            entries[INSTEAD], entries[OTHERS] = (_share_entry(np.concatenate(part), None) for part in (instead, right))
        return entries


def pose_entry(folder: Path, images: ImageSet, rows: Rows | str) -> dict[str, Entry]:
    """Return the entry of the pose error, over the hands found in images drawn with a pose; {} without poses.

    `rows` are the hands of the images, or the reason why they are not known.
    """
    poses = {record["file"]: record["pose"] for record in read_records(folder) if record.get("pose")}
    if not poses:
        return {}
    if isinstance(rows, str):
        return {POSE_ERROR: {"not_computed": rows}}
    nothing = [np.nan] * 64
    wanted = np.array([poses.get(member.name, nothing) for member in images.members], dtype=float)
    errors = pose_errors(wanted, rows.hands())
    found = errors[np.isfinite(errors)]
    if not len(found):
        return {POSE_ERROR: {"not_computed": "no hand was found in the images drawn with a pose"}}
    return {POSE_ERROR: {**_of(median(found)), "unit": f"hands of {len(poses)} posed images"}}


def _distance_entry(prepare: Preparation, drawn: ImageSet, of_base: ImageSet) -> Entry:
    moved = []
    for pair in zip(drawn.members, of_base.members, strict=True):
        pixels = [prepare(images.read(m), m.box)[None] for images, m in zip((drawn, of_base), pair, strict=True)]
        if pixels[0].shape != pixels[1].shape:
            return {"not_computed": f"{pair[0].name} has different sizes in --free and --free-base: use --prepare auto"}
        moved.append(distances(*pixels))
    return {**_of(mean(np.concatenate(moved))), "unit": "images"}


def _share_entry(values: np.ndarray, base: np.ndarray | None) -> Entry:
    entry = {**_of(share(values)), "unit": "images"}
    if base is not None:
        entry["n"]["base"] = len(base)
        entry["base"] = _values(share(base))
        entry["difference"] = _values(share_change(base, values))
    return entry


def _of(estimate: Estimate) -> Entry:
    return {"n": {"fake": estimate.n}, "fake": _values(estimate)}


def _values(estimate: Estimate) -> Entry:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of numbers (n,)."""
    return _estimate(values, np.mean, seed)


def median(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the median of numbers (n,)."""
    return _estimate(values, np.median, seed)


def share(values: np.ndarray) -> Estimate:
    """Return the share of ones among numbers (n,) of 0 and 1."""
    count = len(values)
    if not count:
        return Estimate(0, np.nan, np.nan, np.nan)
    return Estimate(count, float(values.mean()), *bootstrap.wilson(int(values.sum()), count))


def share_change(before: np.ndarray, after: np.ndarray) -> Estimate:
    """Return the difference of two shares (n,) of the same prompts and seeds."""
    count = len(after)
    if not count:
        return Estimate(0, np.nan, np.nan, np.nan)
    return Estimate(count, float(after.mean() - before.mean()), *bootstrap.share_difference(after, before))


def pose_errors(poses: np.ndarray, hands: Sequence[Sequence[Hand]]) -> np.ndarray:
    """Return each image's distance (n,) between the requested joints and those of the nearest hand found in it.

    `poses` (n, 64) are in fractions of the square image. The distance is the mean over the 21 joints, divided by the
    longer side of the box of the requested joints. NaN where no pose was given or no hand is found.
    """
    errors = np.full(len(poses), np.nan)
    for number, (pose, found) in enumerate(zip(poses, hands, strict=True)):
        if np.isnan(pose).any() or not found:
            continue
        joints = pose[:63].reshape(21, 3)[:, :2]
        size = float(np.ptp(joints, axis=0).max())
        distances = [np.linalg.norm(hand.landmarks[:, :2] - joints, axis=1).mean() for hand in found]
        errors[number] = min(distances) / max(size, 1e-6)
    return errors


def makes(names: Sequence[Sequence[str]], gesture: str) -> np.ndarray:
    """Return for each image whether one of its hands makes a gesture, (n,) of 0 and 1. `names`: one for each hand."""
    return np.array([float(gesture in of_image) for of_image in names])


def retention(tuned: np.ndarray, base: np.ndarray, other_base: np.ndarray | None = None) -> dict[str, Any]:
    """Return how far gesture-free images (n, h, w, 3) moved from the base's of the same prompts and seeds.

    The distance of two images is their mean absolute difference, in shares of the full range. `other_base` are the
    base's images from other seeds: their distance is that of images which share the prompt alone.
    """
    moved = distances(tuned, base)
    result = {"distance": mean(moved).record()}
    if other_base is not None:
        result["distance of other seeds"] = mean(distances(other_base, base)).record()
    return result


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference (n,) of images (n, h, w, 3), in shares of the full range."""
    return np.asarray(np.abs(x.astype(np.float32) - y.astype(np.float32)).mean(axis=(1, 2, 3)) / 255)


def _estimate(values: np.ndarray, statistic: Any, seed: int) -> Estimate:
    if not len(values):
        return Estimate(0, np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(len(values), size=(bootstrap.MEAN_DRAWS, len(values)))]
    low, high = bootstrap.percentiles(statistic(drawn, axis=1))
    return Estimate(len(values), float(statistic(values)), low, high)
