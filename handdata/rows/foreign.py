"""The rows of another person's manifest: every value is checked before a file is named or a request sent by it."""

import math
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from handdata.errors import UserError
from handdata.gestures import gestures
from handdata.rows.schema import HAGRID_SPLITS, MANIFEST, SPLITS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_TOLERANCE = 1e-5  # of float32 values in 0..1
_LARGEST = 1 << 62  # bytes; no archive has larger sizes and offsets

# By column: whether a value is possible. Null is possible in no column.
_POSSIBLE: dict[str, Callable[[Any], bool]] = {
    "image_id": lambda value: bool(_NAME.fullmatch(value)),
    "gesture": lambda value: value in gestures(),
    "split": lambda value: value in SPLITS,
    "rank": lambda value: value >= 0,
    "subject": lambda value: bool(_NAME.fullmatch(value)),
    "hagrid_split": lambda value: value in HAGRID_SPLITS.values(),
    "bboxes": lambda value: all(map(_is_box, value)),
    "labels": lambda value: None not in value,
    "source": bool,
    "member": lambda value: bool(value) and "\0" not in value,
    "offset": lambda value: -1 <= value < _LARGEST,
    "compressed_size": lambda value: 0 <= value < _LARGEST,
    "size": lambda value: 0 <= value < _LARGEST,
    "method": lambda value: -1 <= value < 1 << 16,
    "crc32": lambda value: 0 <= value < 1 << 32,
}


def checked_rows(table: pa.Table, name: str) -> pa.Table:
    """Return the manifest's columns of a table with their types; `name` begins the messages.

    Rows that a removal emptied are left out. Raises `UserError` for a missing column, one of another type, and the
    first row with an impossible value.
    """
    columns = [_column(table, wanted, name) for wanted in MANIFEST]
    rows = pa.table(columns, schema=MANIFEST)
    emptied = pc.and_(pc.equal(rows["member"], ""), pc.equal(rows["source"], ""))  # by the removal of an image
    rows = rows.filter(pc.invert(pc.fill_null(emptied, False)))
    if not rows.num_rows:
        raise UserError(f"{name} has no rows: use a manifest with images")
    for column in MANIFEST.names:
        possible = _POSSIBLE.get(column, lambda value: True)
        for number, value in enumerate(rows[column].to_pylist()):
            if value is None or not possible(value):
                _refuse(name, number, f"column '{column}' is {value!r}")
    _check_together(rows, name)
    return rows


def _column(table: pa.Table, wanted: pa.Field, name: str) -> pa.ChunkedArray:
    count = table.column_names.count(wanted.name)
    if count != 1:
        lacks = f"lacks the column '{wanted.name}'" if not count else f"has {count} columns '{wanted.name}'"
        raise UserError(f"{name} {lacks}: it is not a manifest of handdata")
    column = table[wanted.name]
    try:
        if _kind(column.type) != _kind(wanted.type):
            raise ValueError
        return column.cast(wanted.type)
    except (ValueError, pa.ArrowException):
        raise UserError(
            f"{name} holds {column.type} in the column '{wanted.name}', not {wanted.type}: it is not a manifest of"
            " handdata"
        ) from None


def _kind(kind: pa.DataType) -> str:
    """Return a type's kind: those of one kind differ in their width only."""
    types = pa.types
    if types.is_dictionary(kind):
        return _kind(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return f"list of {_kind(kind.value_type)}"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_integer(kind):
        return "integer"
    return "number" if types.is_floating(kind) else str(kind)


def _check_together(rows: pa.Table, name: str) -> None:
    """Check values that depend on each other: boxes and labels, members of folders, and ids that occur once."""
    seen: dict[str, int] = {}
    for number, row in enumerate(rows.to_pylist()):
        image_id = row["image_id"]
        first = seen.setdefault(image_id, number)
        if first != number:
            _refuse(name, number, f"image id {image_id} is also that of row {first}")
        if len(row["bboxes"]) != len(row["labels"]):
            _refuse(name, number, f"{len(row['bboxes'])} boxes have {len(row['labels'])} labels")
        if (row["offset"] < 0) != (row["method"] < 0):
            _refuse(name, number, f"offset {row['offset']} does not fit method {row['method']}")


def _is_box(box: Any) -> bool:
    """Return whether a box is [x, y, w, h] inside the image, with an area."""
    if box is None or len(box) != 4 or not all(value is not None and math.isfinite(value) for value in box):
        return False
    x, y, w, h = box
    return bool(min(x, y) >= -_TOLERANCE and min(w, h) > 0 and max(x + w, y + h) <= 1 + _TOLERANCE)


def _refuse(name: str, number: int, fault: str) -> None:
    shown = fault if len(fault) <= 160 else fault[:160] + "..."
    raise UserError(f"{name}, row {number}: {shown}, which no manifest of handdata has: download the manifest again")
