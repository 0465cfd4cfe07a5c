"""Read the published dataset from a folder or the Hub."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.huggingface import HubName, Place, at_commit, first_line, hub_errors, require_folder
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
            table = Dataset(pq.read_table(files[split], page_checksum_verification=True))
    _check_columns(table, place, option)
    if not len(table):
        raise UserError(f"{option} {place}: the split '{split}' of {gesture} is empty")
    try:
        return _photographs(table, gesture, place, limit)
    except BadRow as error:
        raise UserError(f"{option} {place}, split '{split}' of {gesture}, {error}: publish the dataset again") from None


def splits_of(place: Place, gesture: str, option: str = "--dataset") -> list[str]:
    """Return the names of a dataset's splits of a gesture."""
    return list(_files(place, gesture, option))


def require_gesture(place: Place, gesture: str, option: str = "--dataset") -> None:
    """Raise `UserError` if a dataset lacks a gesture; only its list of files is read."""
    _files(place, gesture, option)


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
    return card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""


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
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException
    from yaml import YAMLError

    hub = hub_errors(place, option) if isinstance(place, HubName) else nullcontext()
    try:
        with hub:
            yield
    except FileNotFoundError:  # also datasets' own errors for a folder or repository without data
        raise UserError(f"{option} {place} does not contain a dataset: name one of `handdata publish`") from None
    except (DatasetsError, ArrowException, YAMLError, OSError, *_NOT_A_DATASET) as error:
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
