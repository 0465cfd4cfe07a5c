"""The rows of a published dataset as training uses them, each checked before any work is done with it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handtrain.data.crops import Box

Record = dict[str, Any]

LANDMARKS = 21  # of a hand, each (x, y, z)
_LONGEST_SIDE = 65_535  # pixels, JPEG's
_FARTHEST = 20.0  # of a landmark, in fractions of the image: z of a hand that fills the image is below 1
_BEYOND = 1.0  # fraction of the image by which a box may leave it, before it is clipped


@dataclass(frozen=True)
class Row:
    """The columns of a dataset row that training uses, without pixels. Boxes and landmarks: fractions of the image."""

    image_id: str
    text: str
    phrase: str
    sha256: str
    width: int
    height: int
    box: Box | None  # around all boxes whose label is the gesture
    landmarks: tuple[tuple[float, float, float], ...] | None  # (21, 3) of the hand that makes the gesture
    left_hand: bool  # whether those landmarks are of a left hand
    rewrite: str


class BadRow(Exception):
    """A row that cannot be used. The message names the row and the reason."""


def checked_rows(records: Sequence[Record], gesture: str) -> list[Row]:
    """Return the rows of a table's records. Raises `BadRow` for the first one that cannot be used.

    Landmarks and boxes must be finite fractions of the image, 21 landmarks a hand; texts and names must not be empty.
    """
    rows, seen = [], set()
    for number, record in enumerate(records):
        name = record["image_id"]
        where = f"row {name[:80]}" if isinstance(name, str) and name else f"row {number}"
        reason = _fault(record)
        if reason is None and name in seen:
            reason = "its image_id is in the split twice"
        if reason:
            raise BadRow(f"{where}: {reason}")
        seen.add(name)
        rows.append(_row(record, gesture))
    return rows


def _fault(record: Record) -> str | None:
    """Return why a record cannot be used, None if it can."""
    for name in ("image_id", "text", "gesture_phrase"):
        if not isinstance(record[name], str) or not record[name].strip():
            return f"its {name} is missing or not a text"
        if any("\ud800" <= letter <= "\udfff" for letter in record[name]):
            return f"its {name} is not valid Unicode"
    if not isinstance(record["sha256"], str) or not re.fullmatch("[0-9a-f]{64}", record["sha256"]):
        return "its sha256 is not a hash in hex digits"
    if not isinstance(record["rewrite"], str | None):
        return "its column rewrite is not a text"
    for name in ("width", "height"):
        if type(record[name]) is not int or not 0 < record[name] <= _LONGEST_SIDE:
            return f"its {name} is not a number of pixels"
    return _boxes_fault(record["bboxes"], record["labels"]) or _hands_fault(record)


def _boxes_fault(boxes: Any, labels: Any) -> str | None:
    if not isinstance(boxes, list) or not isinstance(labels, list) or len(boxes) != len(labels):
        return "its bboxes and labels are not lists of one length"
    if not all(isinstance(label, str) for label in labels):
        return "it has a label that is not a text"
    for box in boxes:
        if not _numbers(box, 4, 1 + _BEYOND) or min(box[2:]) < 0 or min(box[:2]) < -_BEYOND:
            return "it has a box that is not four finite fractions of the image (x, y, width, height)"
    return None


def _hands_fault(record: Record) -> str | None:
    hands, sides, index = record["hand_landmarks"], record["handedness"], record["gesture_hand"]
    if not isinstance(hands, list) or not isinstance(sides, list) or len(hands) != len(sides):
        return "its hand_landmarks and handedness are not lists of one length"
    if not all(isinstance(side, str) for side in sides):
        return "it has a handedness that is not a text"
    for hand in hands:
        if not isinstance(hand, list) or len(hand) != LANDMARKS:
            return f"it has a hand that does not have {LANDMARKS} landmarks"
        if not all(_numbers(point, 3, _FARTHEST) for point in hand):
            return "it has a landmark that is not three finite fractions of the image"
    if index is not None and (type(index) is not int or not -1 <= index < len(hands)):
        return f"its gesture_hand {str(index)[:20]} is not the number of one of its {len(hands)} hands, or -1"
    return None


def _numbers(values: Any, count: int, most: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and math.isfinite(value) and abs(value) <= most for value in values)
    )


def _row(record: Record, gesture: str) -> Row:
    index = record["gesture_hand"]
    landmarks, left = None, False
    if index is not None and index >= 0:
        landmarks = tuple((float(x), float(y), float(z)) for x, y, z in record["hand_landmarks"][index])
        left = record["handedness"][index] == "Left"
    boxes = [box for box, label in zip(record["bboxes"], record["labels"], strict=True) if label == gesture]
    return Row(
        image_id=record["image_id"],
        text=record["text"],
        phrase=record["gesture_phrase"],
        sha256=record["sha256"],
        width=record["width"],
        height=record["height"],
        box=_around(boxes),
        landmarks=landmarks,
        left_hand=left,
        rewrite=record["rewrite"] or "",
    )


def _around(boxes: list[list[float]]) -> Box | None:
    """Return the box (left, top, right, bottom) around boxes (x, y, width, height), clipped to the image."""
    if not boxes:
        return None
    array = np.asarray(boxes, dtype=np.float64)  # (n, 4)
    corners = np.concatenate([array[:, :2].min(0), (array[:, :2] + array[:, 2:]).max(0)])
    left, top, right, bottom = (float(value) for value in np.clip(corners, 0, 1))
    return left, top, right, bottom
