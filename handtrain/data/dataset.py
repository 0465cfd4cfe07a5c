"""Read the published dataset from a folder or the Hub."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handdata.errors import UserError
from handdata.huggingface import HubName, Place, at_commit, hub_errors, require_folder
from handtrain.data.crops import Box, Window, window

_COLUMNS = {
    "image_id", "text", "gesture_phrase", "sha256", "width", "height", "bboxes", "labels",
    "hand_landmarks", "handedness", "gesture_hand", "rewrite",
}  # fmt: skip


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


@dataclass(frozen=True)
class Photographs:
    """The rows of a gesture in a split, sorted by image_id, and their source."""

    rows: list[Row]
    place: Place  # a repository is given with its commit
    table: Any  # datasets.Dataset with the column `image` undecoded
    order: list[int]  # of each row, its number in the table

    def image(self, index: int) -> bytes:
        """Return the bytes of a row's image file. Raises `UserError` if their hash differs from the row's `sha256`."""
        data = bytes(self.table[self.order[index]]["image"]["bytes"])
        row = self.rows[index]
        if hashlib.sha256(data).hexdigest() != row.sha256:
            raise UserError(
                f"--dataset {self.place}: the image of row {row.image_id} does not match its sha256: "
                "publish the dataset again"
            )
        return data

    def fingerprint(self) -> str:
        """Return a hash of the columns that training reads, including the sha256 of the images."""
        return hashlib.sha256(json.dumps([asdict(row) for row in self.rows]).encode()).hexdigest()


def load(place: Place, gesture: str, split: str = "train", limit: int = 0, option: str = "--dataset") -> Photographs:
    """Load a gesture's split of a published dataset; `limit` keeps the first rows by image_id (0: all).

    Raises `UserError` if the dataset, gesture or split does not exist, if columns are missing or the split is empty.
    """
    import pyarrow.parquet as pq
    from datasets import Dataset, load_dataset

    if isinstance(place, HubName):
        place = at_commit(place, "dataset", option)
    files = _files(place, gesture, option)
    if split not in files:
        raise UserError(f"{option} {place} has no split '{split}' for {gesture}; it has {', '.join(files)}")
    with _dataset_errors(place, option):
        if isinstance(place, HubName):
            table = load_dataset(place.repo, gesture, split=split, revision=place.revision)
        else:
            # load_dataset would return its cached rows even if the folder's files have changed (datasets 5.2).
            table = Dataset(pq.read_table(files[split]))
    _check_columns(table, place, option)
    if not len(table):
        raise UserError(f"{option} {place}: the split '{split}' of {gesture} is empty")
    return _photographs(table, gesture, place, limit)


def splits_of(place: Place, gesture: str, option: str = "--dataset") -> list[str]:
    """Return the names of a dataset's splits of a gesture."""
    return list(_files(place, gesture, option))


def gestures_of(place: Place, option: str = "--dataset") -> tuple[str, ...]:
    """Return the names of a dataset's gestures: its configurations except `all`."""
    from datasets import get_dataset_config_names

    path, revision = (place.repo, place.revision) if isinstance(place, HubName) else (str(place), None)
    if isinstance(place, Path):
        require_folder(place, option)
    with _dataset_errors(place, option):
        return tuple(name for name in get_dataset_config_names(path, revision=revision) if name != "all")


def readme(place: Place) -> str:
    """Return the text of the dataset's card, empty without a card."""
    if isinstance(place, HubName):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            card = Path(hf_hub_download(place.repo, "README.md", revision=place.revision, repo_type="dataset"))
        except EntryNotFoundError:
            return ""
    else:
        card = place / "README.md"
    return card.read_text(encoding="utf-8") if card.exists() else ""


def row_window(row: Row, size: int, crop: str) -> Window:
    """Return the square of a row: `center`, or `hand` for the square with the annotated hand."""
    return window(row.width, row.height, size, row.box if crop == "hand" else None)


def _files(place: Place, gesture: str, option: str) -> dict[str, list[str]]:
    from datasets import get_dataset_config_names, load_dataset_builder

    if isinstance(place, HubName):
        path, revision = place.repo, place.revision
    else:
        path, revision = str(require_folder(place, option)), None
    with _dataset_errors(place, option):
        names = get_dataset_config_names(path, revision=revision)
        if gesture not in names:
            raise UserError(f"{option} {place} has no configuration '{gesture}' (--gesture); it has {', '.join(names)}")
        builder = load_dataset_builder(path, gesture, revision=revision)
    return {str(split): list(files) for split, files in (builder.config.data_files or {}).items()}


@contextmanager
def _dataset_errors(place: Place, option: str) -> Iterator[None]:
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowInvalid

    hub = hub_errors(place, option) if isinstance(place, HubName) else nullcontext()
    try:
        with hub:
            yield
    except FileNotFoundError:  # also datasets' own errors for a folder or repository without data
        raise UserError(f"{option} {place} does not contain a dataset: name one of `handdata publish`") from None
    except (DatasetGenerationError, ArrowInvalid) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{option} {place} cannot be read ({cause}): publish it again") from None


def _check_columns(table: Any, place: Place, option: str) -> None:
    from datasets import Image

    missing = sorted((_COLUMNS | {"image"}) - set(table.column_names))
    if missing:
        raise UserError(
            f"{option} {place} lacks the columns {', '.join(missing)}: name a dataset of `handdata publish`"
        )
    if not isinstance(table.features["image"], Image):
        raise UserError(f"{option} {place}: the column 'image' does not contain images")


def _photographs(table: Any, gesture: str, place: Place, limit: int) -> Photographs:
    from datasets import Image

    records = table.select_columns(sorted(_COLUMNS)).to_list()
    order = sorted(range(len(records)), key=lambda i: records[i]["image_id"])[: limit or None]
    rows = [_row(records[i], gesture) for i in order]
    return Photographs(rows, place, table.select_columns(["image"]).cast_column("image", Image(decode=False)), order)


def _row(record: dict[str, Any], gesture: str) -> Row:
    index = record["gesture_hand"]
    landmarks, left = None, False
    if index is not None and 0 <= index < len(record["hand_landmarks"]):
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
