"""The rows of a published dataset, as pictures and tables."""

from typing import Any

from PIL import Image, ImageDraw

from handdata.dataset.evaluate import open_dataset
from handdata.errors import require_known
from handtrain.app.hands import enlarged

_SHOWN = (
    "text", "caption", "gesture", "gesture_phrase", "labels", "handedness", "rewrite", "checks", "width", "height",
    "source", "member", "image_id",
)  # fmt: skip


class Rows:
    """All rows of a split."""

    def __init__(self, dataset: str, split: str = "train") -> None:
        """Open a dataset. Raises `UserError` if it does not exist or lacks the split."""
        splits = open_dataset(dataset)
        require_known(split, list(splits), "split")
        self.name, self._rows = f"{dataset}:{split}", splits[split]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[Image.Image, list[list[str]]]:
        """Return the image of a row with its boxes and landmarks, and its columns as (name, value)."""
        row: dict[str, Any] = self._rows[place]
        row["gesture"] = self._rows.features["gesture"].int2str(row["gesture"])
        picture = enlarged(row["image"])
        pen, width = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 250))
        for left, top, across, down in row["bboxes"]:
            corners = left, top, left + across, top + down
            pen.rectangle(
                [value * side for value, side in zip(corners, picture.size * 2, strict=True)],
                outline="#e60",
                width=width,
            )
        for hand in row["hand_landmarks"]:
            for x, y, *_ in hand:
                middle = x * picture.width, y * picture.height
                pen.ellipse([m + d for d in (-width, width) for m in middle], "#2a8")
        return picture, [[name, str(row[name])] for name in _SHOWN if name in row]
