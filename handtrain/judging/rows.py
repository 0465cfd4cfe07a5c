"""Judged images as data: the hands of an image, and the CSV file with a row per hand."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handtrain.evaluation.hands import Hand

COLUMNS = (
    "folder", "image", "hand", "left", "top", "right", "bottom", "score", "handedness", "gesture",
    "p_wrong", "fingers", "flaw",
)  # fmt: skip


@dataclass(frozen=True)
class JudgedHand:
    """A hand of an image with all judgements; those of anatomy are None where they were not computed."""

    hand: Hand
    gesture: str
    p_wrong: float | None = None  # 0 to 1
    fingers: int | None = None
    flaw: str | None = None
    others: dict[str, float | None] = field(default_factory=dict)  # scores of other judges by name, high for wrong

    def box(self) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom around the landmarks in pixels, clipped to the image."""
        points, limits = np.round(self.hand.points()[:, :2], 2), (self.hand.width, self.hand.height)
        left, top = (int(value) for value in np.clip(np.floor(points.min(axis=0)), 0, limits))
        right, bottom = (int(value) for value in np.clip(np.ceil(points.max(axis=0)), 0, limits))
        return left, top, right, bottom

    @property
    def handedness(self) -> str:
        """Left or Right: the person's own hand in an unmirrored image."""
        return "Left" if self.hand.left_hand else "Right"

    def record(self) -> dict[str, Any]:
        """Return the hand as the JSON file has it; landmarks (21, 3) are pixels."""
        landmarks = [[round(float(value), 2) for value in point] for point in self.hand.points()]
        return {
            "box": list(self.box()),
            "score": round(self.hand.score, 5),
            "handedness": self.handedness,
            "gesture": self.gesture,
            "p_wrong": self.p_wrong,
            "fingers": self.fingers,
            "flaw": self.flaw,
            **({"judges": self.others} if self.others else {}),
            "landmarks": landmarks,
        }


@dataclass(frozen=True)
class JudgedImage:
    """An image of a folder: its hands, or the fault for which it could not be read."""

    folder: int  # number of the folder among those that were given
    name: str
    prompt: str | None = None
    fault: str | None = None
    width: int = 0
    height: int = 0
    black: bool = False
    one_colour: bool = False  # and not black
    hands: list[JudgedHand] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the image as the JSON file has it."""
        if self.fault is not None:
            return {"image": self.name, "fault": self.fault}
        about = {name: getattr(self, name) for name in ("width", "height", "black", "one_colour", "prompt")}
        return {"image": self.name, **about, "hands": [hand.record() for hand in self.hands]}


def csv_text(
    images: Iterable[JudgedImage], folders: list[str], judges: Sequence[str] = (), anatomy: bool = True
) -> str:
    """Return the CSV file: a row per hand; an image without a hand has one row with an empty `hand` and p_wrong 1.

    Without `anatomy` its p_wrong is empty. Every other judge has a column `judge_NAME` after the others. Images that
    could not be read have no row.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"judge_{name}" for name in judges)])
    for image in images:
        if image.fault is None:
            writer.writerows([folders[image.folder], image.name, *cells] for cells in _cells(image, judges, anatomy))
    return text.getvalue()


def _cells(image: JudgedImage, judges: Sequence[str], anatomy: bool) -> Iterator[list[Any]]:
    if not image.hands:
        yield [*[""] * 8, 1 if anatomy else "", "", "", *[""] * len(judges)]
    for number, each in enumerate(image.hands, 1):
        values = (each.p_wrong, each.fingers, each.flaw, *(each.others.get(name) for name in judges))
        judged = ["" if value is None else value for value in values]
        yield [number, *each.box(), round(each.hand.score, 5), each.handedness, each.gesture, *judged]
