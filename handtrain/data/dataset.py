"""Read the published dataset, from a folder or the Hub, and cut its photographs into squares for the model."""

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from handdata.errors import UserError
from handdata.huggingface import HubName, Place, at_commit, hub_errors, require_folder

Box = tuple[float, float, float, float]  # left, top, right, bottom

_COLUMNS = {
    "image_id", "text", "gesture_phrase", "sha256", "width", "height", "bboxes", "labels",
    "hand_landmarks", "handedness", "gesture_hand", "rewrite",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What training needs of a dataset row, without its pixels. Boxes and landmarks in fractions of the image."""

    image_id: str
    text: str
    phrase: str
    sha256: str
    width: int
    height: int
    box: Box | None  # around all boxes that the annotation labels with the gesture
    landmarks: tuple[tuple[float, float, float], ...] | None  # (21, 3) of the hand that makes the gesture
    left_hand: bool  # of those landmarks
    rewrite: str


@dataclass(frozen=True)
class Photographs:
    """One gesture's rows of one split, in the order of their image_id, and where they come from."""

    rows: list[Row]
    place: Place  # a repository stands here with its commit
    table: Any  # datasets.Dataset with the column `image` undecoded
    order: list[int]

    def image(self, index: int) -> bytes:
        """Return the file of a row's image. Raises `UserError` if it is not what the row's `sha256` says."""
        data = bytes(self.table[self.order[index]]["image"]["bytes"])
        row = self.rows[index]
        if hashlib.sha256(data).hexdigest() != row.sha256:
            raise UserError(
                f"--dataset {self.place}: the image of row {row.image_id} is not the one that its sha256 names: "
                "publish the dataset again"
            )
        return data

    def fingerprint(self) -> str:
        """Return a hash of all that training reads of these rows, pixels by their sha256."""
        return hashlib.sha256(json.dumps([asdict(row) for row in self.rows]).encode()).hexdigest()


def load(place: Place, gesture: str, split: str = "train", limit: int = 0, option: str = "--dataset") -> Photographs:
    """Load a gesture's split of a published dataset; `limit` keeps the first so many rows by image_id.

    Raises `UserError` where dataset, gesture or split do not exist, columns are missing or there is no row.
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
            # load_dataset would answer from its cache even where other files lie in the folder by now (datasets 5.2).
            table = Dataset(pq.read_table(files[split]))
    _check_columns(table, place, option)
    if not len(table):
        raise UserError(f"{option} {place}: the split '{split}' of {gesture} is empty")
    return _photographs(table, gesture, place, limit)


def splits_of(place: Place, gesture: str, option: str = "--dataset") -> list[str]:
    """Return the names of the splits that a dataset has for a gesture."""
    return list(_files(place, gesture, option))


def readme(place: Place) -> str:
    """Return the dataset's card, empty if it has none."""
    if isinstance(place, HubName):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            file = hf_hub_download(place.repo, "README.md", revision=place.revision, repo_type="dataset")
        except EntryNotFoundError:
            return ""
        with open(file, encoding="utf-8") as card:  # noqa: PTH123 - a str from the hub's library
            return card.read()
    card_file = place / "README.md"
    return card_file.read_text(encoding="utf-8") if card_file.exists() else ""


@dataclass(frozen=True)
class Window:
    """Resize an image to (width, height) and keep the square whose left upper corner is (left, top). In pixels."""

    width: int
    height: int
    left: int
    top: int
    size: int

    def box(self, box: Box) -> Box:
        """Return a box, given in fractions of the image, in fractions of the square, cut to it."""
        left, top, right, bottom = box
        x = [(value * self.width - self.left) / self.size for value in (left, right)]
        y = [(value * self.height - self.top) / self.size for value in (top, bottom)]
        x0, x1, y0, y1 = (min(max(value, 0.0), 1.0) for value in (*x, *y))
        return x0, y0, x1, y1

    def crop(self, image: Any) -> Any:
        """Return the square of a Pillow image (bilinear, antialiased)."""
        from PIL import Image

        resized = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        return resized.crop((self.left, self.top, self.left + self.size, self.top + self.size))


def window(width: int, height: int, size: int, box: Box | None = None) -> Window:
    """Return the square of side `size` after the short side is resized to it: the centre, or nearest it with the box.

    The rounding is torchvision's Resize and CenterCrop, as in the released code. A box longer than the square is
    centred in it.
    """
    if width <= height:
        scaled_width, scaled_height = size, int(size * height / width)
    else:
        scaled_width, scaled_height = int(size * width / height), size
    left, top = round((scaled_width - size) / 2.0), round((scaled_height - size) / 2.0)
    if box is not None:
        left = _slide(left, scaled_width, size, box[0] * scaled_width, box[2] * scaled_width)
        top = _slide(top, scaled_height, size, box[1] * scaled_height, box[3] * scaled_height)
    return Window(scaled_width, scaled_height, left, top, size)


def row_window(row: Row, size: int, crop: str) -> Window:
    """Return the square of a row: `center`, or `hand` for the one that holds the annotated hand."""
    return window(row.width, row.height, size, row.box if crop == "hand" else None)


def square(data: bytes, cut: Window) -> np.ndarray:
    """Decode an image file and return its square as float32 (3, size, size) in [-1, 1] (bilinear, antialiased)."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        cropped = cut.crop(image.convert("RGB"))
    pixels = np.asarray(cropped, dtype=np.float32) / np.float32(255)  # (size, size, 3)
    return np.ascontiguousarray((pixels * 2 - 1).transpose(2, 0, 1))  # (3, size, size)


def hand_weights(box: Box | None, height: int, width: int, weight: float) -> np.ndarray:
    """Return the loss weights of one image, (1, height, width), mean 1: `weight` to 1 inside against outside the box.

    A cell of the latent that the box covers in part counts in part.
    """
    weights = np.ones((1, height, width), dtype=np.float32)
    if box is not None:
        across, down = _covered(width, box[0], box[2]), _covered(height, box[1], box[3])
        weights[0] += (weight - 1) * np.outer(down, across)
    weights /= weights.mean()
    return np.asarray(weights)


def _covered(cells: int, low: float, high: float) -> np.ndarray:
    edges = np.arange(cells)
    return np.asarray(np.clip(np.minimum(edges + 1, high * cells) - np.maximum(edges, low * cells), 0, 1))


def _slide(start: int, length: int, size: int, low: float, high: float) -> int:
    if high - low >= size:
        moved = round((low + high - size) / 2)
    else:
        moved = min(max(start, int(np.ceil(high)) - size), int(np.floor(low)))
    return min(max(moved, 0), length - size)


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
    except FileNotFoundError:  # datasets' own errors for a folder or repository without data are kinds of it
        raise UserError(f"{option} {place} holds no dataset: name one that `handdata publish` made") from None
    except (DatasetGenerationError, ArrowInvalid) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{option} {place} cannot be read ({cause}): publish it again") from None


def _check_columns(table: Any, place: Place, option: str) -> None:
    from datasets import Image

    missing = sorted((_COLUMNS | {"image"}) - set(table.column_names))
    if missing:
        raise UserError(
            f"{option} {place} lacks the columns {', '.join(missing)}: name a dataset that `handdata publish` made"
        )
    if not isinstance(table.features["image"], Image):
        raise UserError(f"{option} {place}: the column 'image' does not hold images")


def _photographs(table: Any, gesture: str, place: Place, limit: int) -> Photographs:
    from datasets import Image

    records = table.select_columns(sorted(_COLUMNS)).to_list()
    order = sorted(range(len(records)), key=lambda i: records[i]["image_id"])[: limit or None]
    rows = [_row(records[i], gesture) for i in order]
    return Photographs(rows, place, table.select_columns(["image"]).cast_column("image", Image(decode=False)), order)


def _row(record: dict[str, Any], gesture: str) -> Row:
    hand = record["gesture_hand"]
    landmarks, left = None, False
    if hand is not None and 0 <= hand < len(record["hand_landmarks"]):
        landmarks = tuple((float(x), float(y), float(z)) for x, y, z in record["hand_landmarks"][hand])
        left = record["handedness"][hand] == "Left"
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
    if not boxes:
        return None
    array = np.asarray(boxes, dtype=np.float64)  # (n, 4) as x, y, w, h
    corners = np.concatenate([array[:, :2].min(0), (array[:, :2] + array[:, 2:]).max(0)])
    left, top, right, bottom = (float(value) for value in np.clip(corners, 0, 1))
    return left, top, right, bottom
