"""HaGRID's annotations, v1, 2.0 and v2-1M, from an archive or a folder, as one table of the images to select from.

All irregularities of the format are handled here: they are corrected or left out, counted and reported.
HaGRID's `meta` (age, gender, race guessed by a network) and its unchecked landmarks are never copied.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.errors import UserError
from handdata.gestures import gestures as all_gestures
from handdata.rows.oddities import Oddities
from handdata.rows.schema import HAGRID_SPLITS
from handdata.sources import archive, cache
from handdata.sources.archive import Entry
from handdata.sources.http import RemoteFile
from handdata.sources.index import FolderIndex, ZipIndex
from handdata.sources.places import normal_gesture

VERSION = 1  # increased when a change of this file changes the rows

TABLE = pa.schema(
    [
        ("image_id", pa.string()),
        ("gesture", pa.string()),
        ("hagrid_split", pa.string()),
        ("subject", pa.string()),
        ("bboxes", pa.list_(pa.list_(pa.float32()))),
        ("labels", pa.list_(pa.string())),
        ("gesture_area", pa.float32()),  # largest box with the gesture's label, as a share of the image
        ("other_hands", pa.int32()),  # number of hands that do not make the gesture
    ]
)

_FOLDERS = {**{name: name for name in HAGRID_SPLITS.values()}, "ann_train_val": "train", "ann_test": "test"}
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_CLIP_TOLERANCE = 1e-6  # fraction of the image, less than a hundredth of a pixel: a rounding error
_LONGEST_NUMBER = 18  # digits; a longer whole number becomes a float, possibly infinity
_ODDITIES = b"hand1000:odd"  # in the metadata of a cached file
_LARGEST = 1 << 30  # bytes of a JSON file


@dataclass(frozen=True)
class AnnotationFile:
    """One JSON file of annotations: the records of one gesture in one of HaGRID's splits."""

    entry: Entry
    gesture: str
    hagrid_split: str


def files(entries: Iterable[Entry], gestures: tuple[str, ...], place: str) -> list[AnnotationFile]:
    """Return the annotation files of these gestures, among the JSON files of an archive or folder.

    Raises `UserError` for a gesture without one; the message names the gestures with annotations.
    """
    present = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        path = PurePosixPath(entry.name)
        split = _FOLDERS.get(path.parent.name)
        if split and path.suffix == ".json" and not any(part.startswith((".", "__MACOSX")) for part in path.parts):
            present.append(AnnotationFile(entry, normal_gesture(path.stem), split))
    names = {file.gesture for file in present}
    for gesture in gestures:
        if gesture not in names:
            known = ", ".join(sorted(names & set(all_gestures()))) or "none"
            raise UserError(f"{place} has no annotations of '{gesture}'; it has those of: {known}")
    return [file for file in present if file.gesture in gestures]


def read(index: ZipIndex | FolderIndex, file: AnnotationFile) -> tuple[pa.Table, Oddities]:
    """Read one annotation file; the rows of a remote one (never its `meta`) are kept in the cache.

    Raises `UserError` for a damaged file.
    """
    if isinstance(index, FolderIndex):
        return parse((index.root / file.entry.name).read_bytes(), file)
    name = None
    if isinstance(index.reader, RemoteFile):
        name = cache.key(index.reader, f"{file.entry.name}\n{VERSION}")
        cached = cache.find(name, "parquet")
        if cached is not None:
            table = pq.read_table(cached)
            stored = json.loads(table.schema.metadata[_ODDITIES])
            return table.replace_schema_metadata(None), Oddities(Counter(stored["counts"]), stored["examples"])
    try:
        archive.check_limits(file.entry, _LARGEST)
        start, end = archive.span(file.entry)
        data = index.reader.read(start, max(0, min(end, index.length) - start))
        text = archive.unpack(file.entry, archive.payload(file.entry, data, index.reader.read))
    except archive.BadMember as error:
        raise UserError(f"{file.entry.name} in {index.place} is damaged ({error}): download it again") from None
    table, odd = parse(text, file)
    if name:
        kept = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({_ODDITIES: json.dumps(vars(odd))}), kept, compression="zstd")
        cache.keep(name, "parquet", kept.getvalue().to_pybytes())
    return table, odd


def parse(text: bytes, file: AnnotationFile) -> tuple[pa.Table, Oddities]:
    """Return the records of one JSON file as a table of `TABLE`'s columns. Raises `UserError` if it is not JSON."""
    name = file.entry.name
    try:
        records = json.loads(text, parse_int=_number)
    except RecursionError:
        raise UserError(f"{name} is nested too deeply to be an annotation file of HaGRID: replace it") from None
    except ValueError as error:
        raise UserError(f"{name} is not valid JSON ({error}): download the annotations again") from None
    if not isinstance(records, dict):
        raise UserError(f"{name} is not a table of records by image id: is it an annotation file of HaGRID?")
    odd = Oddities()
    rows = list(_rows(records, file, odd))
    columns = zip(*rows, strict=True) if rows else ([] for _ in TABLE)
    return pa.table(dict(zip(TABLE.names, map(list, columns), strict=True)), schema=TABLE), odd


def subject_of(user_id: str) -> str:
    """Return the published name of a person: first 16 hex digits of sha256 of HaGRID's `user_id`."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:16]


def _rows(records: dict[str, Any], file: AnnotationFile, odd: Oddities) -> Iterator[tuple]:
    subjects: dict[str, str] = {}
    known = all_gestures().get(file.gesture)
    hands = known.hands if known else 1
    for image_id, record in records.items():
        example = f"{file.gesture}/{image_id[:60]}"
        fault = _fault(image_id, record)
        if fault:
            odd.add(fault, example)
            continue
        boxes, labels = _boxes(record, file.gesture, odd, example)
        areas = [w * h for (_, _, w, h), label in zip(boxes, labels, strict=True) if label == file.gesture]
        if not areas:
            odd.add("no-gesture", example)
            continue
        user = record["user_id"]
        subject = subjects.get(user) or subjects.setdefault(user, subject_of(user))
        others = max(0, len(areas) - hands) + sum(label != file.gesture for label in labels)
        yield image_id, file.gesture, file.hagrid_split, subject, boxes, labels, max(areas), others


def _fault(image_id: str, record: Any) -> str | None:
    """Return why a record cannot be used, as a kind of `ODDITIES`; None for one whose fields have the right types."""
    if not isinstance(record, dict) or not isinstance(record.get("bboxes"), list):
        return "not-a-record"
    if not _IMAGE_ID.fullmatch(image_id):
        return "bad-image-id"
    if not _is_text(record.get("user_id")) or not record["user_id"]:
        return "no-subject"
    labels = record.get("labels")
    if not isinstance(labels, list) or len(labels) != len(record["bboxes"]):
        return "uneven-boxes"
    return None if all(map(_is_text, labels)) else "bad-label"


def _is_text(value: Any) -> bool:
    """Return whether a value is a string that UTF-8 can hold: JSON may have halves of surrogate pairs."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else float(digits)


def _boxes(record: dict[str, Any], gesture: str, odd: Oddities, example: str) -> tuple[list, list[str]]:
    """Return clipped boxes and their labels, including the united box where no other box has the gesture's label."""
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
        labels.append(label)
    return boxes, labels


def _united(record: dict[str, Any], gesture: str) -> list[Any]:
    """Return the united boxes of a gesture. A field that is null, [null], [] or missing means no box."""
    boxes, labels = record.get("united_bbox") or [], record.get("united_label") or []
    labels = [labels] if isinstance(labels, str) else labels
    if not isinstance(boxes, list) or not isinstance(labels, list):
        return []
    boxes = [boxes] if boxes and not isinstance(boxes[0], (list, type(None))) else boxes
    return [box for box, label in zip(boxes, labels, strict=False) if box is not None and label == gesture]


def _clip(box: Any) -> list[float] | None:
    """Return [x, y, w, h] clipped to the image, None for an empty or invalid box."""
    numbers = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
    if not numbers or not all(map(math.isfinite, box)):
        return None
    x, y, w, h = box
    left, top = max(0.0, x), max(0.0, y)
    right, bottom = min(1.0, x + w), min(1.0, y + h)
    if right - left <= _CLIP_TOLERANCE or bottom - top <= _CLIP_TOLERANCE:
        return None
    return [left, top, right - left, bottom - top]
