"""Further image sets of an evaluation, and their metrics: pose error, specificity, retention.

A model that is trained on one gesture may draw it everywhere. `free` are its images of prompts without a gesture,
`free base` those of the base from the same prompts and seeds, `others` its images of prompts with another gesture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handdata.errors import UserError
from handtrain.data.image_folder import read_records, read_settings
from handtrain.evaluation import instruments
from handtrain.evaluation.features import Rows
from handtrain.evaluation.gesture_judge import named
from handtrain.evaluation.image_sets import ImageSet, Preparation, folder_set, partners
from handtrain.evaluation.instruments import Estimate
from handtrain.evaluation.metrics import GestureJudge

Entry = dict[str, Any]

POSE_ERROR, UNASKED, INSTEAD = "pose error", "gesture without request", "gesture instead of others"
OTHERS, DISTANCE = "accuracy of others", "distance to the base"
LOWER_IS_BETTER = {POSE_ERROR: True, UNASKED: True, INSTEAD: True, OTHERS: False, DISTANCE: True}


@dataclass(frozen=True)
class Further:
    """The further image sets of one evaluation, each read once."""

    free: ImageSet | None
    free_base: ImageSet | None
    others: tuple[tuple[str, ImageSet], ...]  # with the gesture that the prompts name

    @classmethod
    def open(cls, free: Path | None, free_base: Path | None, others: Sequence[Path]) -> "Further":
        """Read the folders. Raises `UserError` for one that is missing, or of other images than it should be."""
        if free_base is not None and free is None:
            raise UserError("--free-base needs --free: the images of the trained model from the same prompts and seeds")
        drawn = folder_set(free, "--free") if free else None
        of_base = folder_set(free_base, "--free-base") if free_base else None
        if drawn and of_base:
            drawn, of_base = partners(drawn, of_base)
        named_sets = []
        for folder in others:
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
        self, rows: dict[str, Rows], prepare: Preparation, gesture: str | None, judge: GestureJudge | str
    ) -> dict[str, Entry]:
        """Return the entries of the metrics whose sets are given. `rows` are the hands of each set by name."""
        if isinstance(judge, str) or gesture is None:
            reason = judge if isinstance(judge, str) else "the gesture of the images is not known"
            return {UNASKED: {"not_computed": reason}} if rows else {}
        names = {name: [named(hands, judge) if hands else [] for hands in of.hands()] for name, of in rows.items()}
        made = {name: instruments.makes(of, gesture) for name, of in names.items()}
        entries: dict[str, Entry] = {}
        if self.free is not None:
            entries[UNASKED] = _entry(made["free"], made.get("free base"))
        if self.free is not None and self.free_base is not None:
            pixels = [
                [prepare(images.read(m), m.box) for m in images.members] for images in (self.free, self.free_base)
            ]
            distances = instruments.distances(*(np.stack(side) for side in pixels))
            entries[DISTANCE] = _entry(distances, None)
        if self.others:
            right = [
                instruments.makes(names[f"others {number}"], asked) for number, (asked, _) in enumerate(self.others)
            ]
            instead = [made[f"others {number}"] for number in range(len(self.others))]
            entries[INSTEAD], entries[OTHERS] = (_entry(np.concatenate(part), None) for part in (instead, right))
        return entries


def pose_entry(folder: Path, images: ImageSet, rows: Rows) -> dict[str, Entry]:
    """Return the entry of the pose error, over the hands found in images drawn with a pose; {} without poses."""
    poses = {record["file"]: record["pose"] for record in read_records(folder) if record.get("pose")}
    if not poses:
        return {}
    nothing = [np.nan] * 64
    wanted = np.array([poses.get(member.name, nothing) for member in images.members], dtype=float)
    errors = instruments.pose_errors(wanted, rows.hands())
    found = errors[np.isfinite(errors)]
    if not len(found):
        return {POSE_ERROR: {"not_computed": "no hand was found in the images drawn with a pose"}}
    return {POSE_ERROR: {**_of(instruments.median(found)), "unit": f"hands of {len(poses)} posed images"}}


def _entry(values: np.ndarray, base: np.ndarray | None) -> Entry:
    entry = {**_of(instruments.mean(values)), "unit": "images"}
    if base is not None:
        entry["n"]["base"] = len(base)
        entry["base"] = _values(instruments.mean(base))
        entry["difference"] = _values(instruments.difference(base, values))
    return entry


def _of(estimate: Estimate) -> Entry:
    return {"n": {"fake": estimate.n}, "fake": _values(estimate)}


def _values(estimate: Estimate) -> Entry:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
