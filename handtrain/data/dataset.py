"""Read the published dataset from a folder or the Hub."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from handdata import gestures as named
from handdata.errors import UserError, first_line
from handdata.gestures import gestures
from handdata.huggingface import Place, parse_dataset
from handdata.rows.published import open_published
from handtrain.data.crops import Window, window
from handtrain.data.rows import BadRow, Row, checked_rows

# Raised by datasets and pyarrow for cards, metadata and columns that are not what they expect.
_NOT_A_DATASET = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
_COLUMNS = {
    "image_id", "text", "gesture_phrase", "sha256", "width", "height", "bboxes", "labels",
    "hand_landmarks", "handedness", "gesture_hand", "rewrite",
}  # fmt: skip


@dataclass(frozen=True)
class Photographs:
    """The rows of a gesture in a split, sorted by image_id, and their source."""

    rows: list[Row]
    place: Place  # a repository is given with its commit
    table: Any  # datasets.Dataset with the column `image` undecoded
    order: list[int]  # of each row, its number in the table

    def image(self, index: int) -> bytes:
        """Return the bytes of a row's image file. Raises `UserError` if their hash differs from the row's `sha256`."""
        row = self.rows[index]
        cell = self.table[self.order[index]]["image"]
        data = cell.get("bytes") if isinstance(cell, dict) else None
        if not data:
            raise UserError(f"--dataset {self.place}: row {row.image_id} has no image: publish the dataset again")
        if hashlib.sha256(data).hexdigest() != row.sha256:
            raise UserError(
                f"--dataset {self.place}: the image of row {row.image_id} does not match its sha256: "
                "publish the dataset again"
            )
        return bytes(data)

    def check_images(self) -> None:
        """Raise `UserError` for the first row without an intact image file of the row's size."""
        from handdata.vision.pixels import UnreadableImage, open_image

        for index, row in enumerate(self.rows):
            data = self.image(index)
            try:
                with open_image(data) as image:
                    size = image.size
            except UnreadableImage:
                size = None
            if size != (row.width, row.height):
                found = f"is {size[0]} x {size[1]} px, not {row.width} x {row.height}" if size else "cannot be read"
                raise UserError(
                    f"--dataset {self.place}: the image of row {row.image_id} {found}: publish the dataset again"
                )

    def fingerprint(self) -> str:
        """Return a hash of the columns that training reads, including the sha256 of the images."""
        return hashlib.sha256(json.dumps([asdict(row) for row in self.rows]).encode()).hexdigest()


def load(place: Place, gesture: str, split: str = "train", limit: int = 0, option: str = "--dataset") -> Photographs:
    """Load a gesture's split of a published dataset; `limit` keeps the first rows by image_id (0: all).

    Raises `UserError` if the dataset, gesture or split does not exist, if columns are missing, the split is empty or a
    row cannot be used.
    """
    import pyarrow.parquet as pq
    from datasets import Dataset

    published = open_published(place, option)
    place, files = published.place, published.files(gesture, split)
    with _dataset_errors(place, option):
        # load_dataset would return its cached rows even if the folder's files have changed (datasets 5.2).
        dataset = pq.ParquetDataset(files, partitioning=None, page_checksum_verification=True)
        table = Dataset(dataset.read())
    _check_columns(table, place, option)
    if not len(table):
        raise UserError(f"{option} {place}: the split '{split}' of {gesture} is empty")
    try:
        return _photographs(table, gesture, place, limit)
    except BadRow as error:
        raise UserError(f"{option} {place}, split '{split}' of {gesture}, {error}: publish the dataset again") from None


def splits_of(place: Place, gesture: str, option: str = "--dataset") -> list[str]:
    """Return the names of a dataset's splits of a gesture."""
    return open_published(place, option).splits(gesture)


def gestures_of(place: Place, option: str = "--dataset") -> list[str]:
    """Return the names of a dataset's configurations of one gesture."""
    return [name for name in open_published(place, option).configurations if name != "all"]


def require_trainable(dataset: str, names: tuple[str, ...], option: str) -> None:
    """Raise `UserError` for names that are neither HaGRID's gestures nor the dataset's, and for none; `all` is alone.

    HaGRID's names need no file. For another name the dataset's card is read, which lists the gestures of its recipe.
    """
    own: list[str] = []
    if set(names) - {"all", *gestures()}:
        with suppress(UserError):  # of a dataset that cannot be opened: it does not have the name either
            own = gestures_of(parse_dataset(dataset, "--dataset"))
    named.require_trainable(names, option, own)


def require_gesture(place: Place, gesture: str, option: str = "--dataset") -> None:
    """Raise `UserError` if a dataset lacks a gesture; only its card is read."""
    open_published(place, option).splits(gesture)


def readme(place: Place, option: str = "--dataset") -> str:
    """Return the text of the dataset's card."""
    return open_published(place, option).card


def row_window(row: Row, size: int, crop: str) -> Window:
    """Return the square of a row: `center`, or `hand` for the square with the annotated hand."""
    return window(row.width, row.height, size, row.box if crop == "hand" else None)


@contextmanager
def _dataset_errors(place: Place, option: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    try:
        yield
    except (DatasetsError, ArrowException, OSError, *_NOT_A_DATASET) as error:
        cause = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)[:200]
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

    names = sorted(_COLUMNS)
    with _dataset_errors(place, "--dataset"):
        records = table.select_columns(names).to_list()
    # Rows without a valid image_id come first, so that a limit does not hide them.
    order = sorted(range(len(records)), key=lambda i: _sorting(records[i]["image_id"]))[: limit or None]
    rows = checked_rows([records[i] for i in order], gesture)
    return Photographs(rows, place, table.select_columns(["image"]).cast_column("image", Image(decode=False)), order)


def _sorting(image_id: Any) -> str:
    return image_id if isinstance(image_id, str) else ""
