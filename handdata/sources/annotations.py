"""HaGRID's annotations, v1, 2.0 and v2-1M, from an archive or a folder, as one table of what can be selected.

Every trap of the format is met here, once, and counted: what is odd is left out or mended and said so in a report.
HaGRID's `meta` (age, gender, race guessed by a network) and its unchecked landmarks are never taken over.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from handdata.errors import UserError
from handdata.gestures import gestures as all_gestures
from handdata.rows.oddities import Oddities
from handdata.sources import archive
from handdata.sources.places import normal_gesture

VERSION = 1  # raised when a change of this file changes the rows

TABLE = pa.schema(
    [
        ("image_id", pa.string()),
        ("gesture", pa.string()),
        ("hagrid_split", pa.string()),
        ("subject", pa.string()),
        ("bboxes", pa.list_(pa.list_(pa.float32()))),
        ("labels", pa.list_(pa.string())),
        ("gesture_area", pa.float32()),  # of the largest box that is labelled so, as a share of the image
        ("other_hands", pa.int32()),  # hands beyond those that make the gesture
    ]
)


_SPLITS = {"train": "train", "val": "val", "test": "test", "ann_train_val": "train", "ann_test": "test"}
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_CLIP_TOLERANCE = 1e-6  # fractions of the image: rounding in the annotations, not a box outside


@dataclass(frozen=True)
class AnnotationFile:
    """One JSON file of annotations: the records of one gesture in one of HaGRID's splits."""

    name: str
    gesture: str
    hagrid_split: str
    size: int  # bytes that must be read for it


def files(names: dict[str, int], wanted: tuple[str, ...], place: str) -> list[AnnotationFile]:
    """Choose the files to read among all names (with their sizes) in an annotations archive or folder.

    Raises `UserError` for a gesture that has none, naming those that have.
    """
    found = []
    for name, size in sorted(names.items()):
        path = PurePosixPath(name)
        if path.suffix != ".json" or any(part.startswith((".", "__MACOSX")) for part in path.parts):
            continue
        split = _SPLITS.get(path.parent.name)
        if split:
            found.append(AnnotationFile(name, normal_gesture(path.stem), split, size))
    present = {file.gesture for file in found}
    for gesture in wanted:
        if gesture not in present:
            known = ", ".join(sorted(present & set(all_gestures()))) or "none"
            raise UserError(f"{place} has no annotations of '{gesture}'; it has those of: {known}")
    return [file for file in found if file.gesture in wanted]


def parse(text: bytes, file: AnnotationFile) -> tuple[pa.Table, Oddities]:
    """Read one JSON file into a table of `TABLE`'s columns. Raises `UserError` if it is not JSON."""
    try:
        records = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file.name} is not valid JSON ({error}): fetch the annotations anew") from None
    if not isinstance(records, dict):
        raise UserError(f"{file.name} is not a table of records by image id: is it an annotation file of HaGRID?")
    odd = Oddities()
    rows = list(_rows(records, file, odd))
    columns = zip(*rows, strict=True) if rows else ([] for _ in TABLE)
    return pa.table(dict(zip(TABLE.names, map(list, columns), strict=True)), schema=TABLE), odd


def subject_of(user_id: str) -> str:
    """Return the published name of a person: first 16 hex digits of sha256 of HaGRID's `user_id`."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:16]


def folder_names(root: Path) -> dict[str, int]:
    """Return the JSON files below a folder with their sizes."""
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*.json")}


def archive_entries(directory: archive.Directory) -> dict[str, archive.Entry]:
    """Return the JSON members of an archive by name."""
    return {entry.name: entry for entry in archive.entries(directory) if entry.name.endswith(".json")}


def _rows(records: dict[str, Any], file: AnnotationFile, odd: Oddities) -> Iterator[tuple]:
    subjects: dict[str, str] = {}
    hands = all_gestures()[file.gesture].hands if file.gesture in all_gestures() else 1
    for image_id, record in records.items():
        example = f"{file.gesture}/{image_id[:60]}"
        if not isinstance(record, dict) or not isinstance(record.get("bboxes"), list):
            odd.add("not-a-record", example)
        elif not _IMAGE_ID.fullmatch(image_id):
            odd.add("bad-image-id", example)
        elif not isinstance(record.get("user_id"), str) or not record["user_id"]:
            odd.add("no-subject", example)
        elif not isinstance(record.get("labels"), list) or len(record["labels"]) != len(record["bboxes"]):
            odd.add("uneven-boxes", example)
        else:
            boxes, labels = _boxes(record, file.gesture, odd, example)
            areas = [w * h for (_, _, w, h), label in zip(boxes, labels, strict=True) if label == file.gesture]
            if not areas:
                odd.add("no-gesture", example)
                continue
            user = record["user_id"]
            subject = subjects.get(user) or subjects.setdefault(user, subject_of(user))
            others = max(0, len(areas) - hands) + sum(label != file.gesture for label in labels)
            yield image_id, file.gesture, file.hagrid_split, subject, boxes, labels, max(areas), others


def _boxes(record: dict[str, Any], gesture: str, odd: Oddities, example: str) -> tuple[list, list[str]]:
    """Return the clipped boxes and their labels, the united box among them where it alone carries the gesture."""
    pairs = list(zip(record["bboxes"], record["labels"], strict=True))
    if gesture not in record["labels"]:
        united = [(box, gesture) for box in _united(record, gesture)]
        if united:
            odd.add("united-only", example)
            pairs += united
    boxes, labels = [], []
    for raw, label in pairs:
        box = _clip(raw)
        if box is None:
            odd.add("box-empty", example)
            continue
        if max(abs(a - b) for a, b in zip(box, raw, strict=True)) > _CLIP_TOLERANCE:
            odd.add("box-clipped", example)
        boxes.append(box)
        labels.append(str(label))
    return boxes, labels


def _united(record: dict[str, Any], gesture: str) -> list[Any]:
    """Return the united boxes of a gesture: null, [null], [] and missing all mean none."""
    boxes, labels = record.get("united_bbox") or [], record.get("united_label") or []
    labels = [labels] if isinstance(labels, str) else labels
    boxes = [boxes] if boxes and not isinstance(boxes[0], (list, type(None))) else boxes
    return [box for box, label in zip(boxes, labels, strict=False) if box is not None and label == gesture]


def _clip(box: Any) -> list[float] | None:
    """Return [x, y, w, h] cut to the image, None if nothing is left of it."""
    numbers = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
    if not numbers or not all(map(math.isfinite, box)):
        return None
    x, y, w, h = box
    left, top = max(0.0, x), max(0.0, y)
    right, bottom = min(1.0, x + w), min(1.0, y + h)
    if right <= left or bottom <= top:
        return None
    return [left, top, right - left, bottom - top]
