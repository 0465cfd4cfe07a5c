"""Readings of the hands in folders of drawn pairs or of photographs: everything that the table is computed from."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handdata.progress import bar
from handdata.vision.landmarks import HandFinder, decode
from handtrain.judging.anatomy import FLAWS
from handtrain.landmark_network.readings import (
    FEATURES,
    STABILITY,
    all_visible,
    bones,
    mean_features,
    open_network,
    read_views,
    stability,
)
from handtrain.landmark_network.tflite import Network
from handtrain.landmark_network.views import views

QUALITY = 92  # JPEG, of `handdata render`


@dataclass(frozen=True)
class Measures:
    """One row per picture. Without a found hand its numbers are NaN."""

    name: NDArray[Any]  # of the picture
    pair: NDArray[Any]  # the right picture's name
    person: NDArray[Any]
    size: NDArray[Any]  # px, the short side
    wrong: NDArray[Any]
    flaws: NDArray[Any]  # (n, 7) in the order of FLAWS
    fingers: NDArray[Any]  # that the hand has
    visible: NDArray[Any]  # whether all fingers are extended, by the drawn joints
    found: NDArray[Any]
    score: NDArray[Any]  # MediaPipe's, whose mean is HAND-CONF; 0 without a hand
    stability: NDArray[Any]  # (n, 9)
    bones: NDArray[Any]  # (n, 35) lengths and bends, means of the views
    features: NDArray[Any]  # (n, 1152) means of the views

    def rows(self, chosen: NDArray[Any]) -> "Measures":
        return Measures(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def joined(cls, parts: "list[Measures]") -> "Measures":
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> "Measures":
        return cls(*(np.stack([np.asarray(row[field.name]) for row in rows]) for field in fields(cls)))


def measure(folder: Path, side: int = 0) -> Measures:
    """Find and read the hand of every picture: the hand nearest to the drawn joints, in a photograph the surest.

    With `side` every picture is first reduced so that its short side has that many pixels.
    """
    network, rows = open_network(), []
    pictures = list(_pictures(folder))
    with HandFinder() as finder, bar(total=len(pictures), desc=folder.name, unit="picture") as shown:
        for row, data, joints in pictures:
            image = decode(data)
            assert image is not None, row["name"]
            rows.append(row | read_hand(network, finder, reduced(image, side) if side else image, joints))
            shown.update()
    return Measures.of(rows)


def reduced(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return an image (h, w, 3) reduced to a short side in pixels and stored as JPEG, as `render` stores its own."""
    scale, file = side / min(image.shape[:2]), io.BytesIO()
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    Image.fromarray(image).resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=QUALITY)
    small = decode(file.getvalue())
    assert small is not None
    return small


def read_hand(network: Network, finder: HandFinder, image: NDArray[np.uint8], joints: Any) -> dict[str, Any]:
    """Return the columns of an image (h, w, 3) that are read from it; `joints` (21, 2) in fractions, or None."""
    hands, (h, w) = finder.find(image), image.shape[:2]
    found = len(hands.scores) > 0
    row = {"size": min(h, w), "found": found, "score": 0.0, "stability": np.full(len(STABILITY), np.nan)}
    row |= {"bones": np.full(35, np.nan), "features": np.full(FEATURES, np.nan)}
    if found:
        order = -np.array(hands.scores)
        if joints is not None:
            order = np.abs(hands.landmarks[:, :, :2] - joints).mean(axis=(1, 2))
        best = int(np.argmin(order))
        crops, matrices = views(image, hands.landmarks[best].astype(float) * [w, h, w])
        read = read_views(network, crops)
        row |= {"score": hands.scores[best], "stability": stability(read, matrices)}
        row["bones"] = np.concatenate([values.mean(axis=0) for values in bones(read.world)])
        row["features"] = mean_features(read)
    return row


def _pictures(folder: Path) -> Iterator[tuple[dict[str, Any], bytes, Any]]:
    """Yield what is known of each picture, its bytes, and its hand's joints in fractions (None for a photograph)."""
    if not (folder / "truth.jsonl").is_file():
        for path in sorted(folder.rglob("*.jpg")):
            name = path.name
            known = {"name": name, "pair": name, "person": name, "wrong": False, "flaws": np.zeros(len(FLAWS), bool)}
            yield {**known, "fingers": 5, "visible": False}, path.read_bytes(), None
        return
    archives: dict[str, zipfile.ZipFile] = {}
    for line in (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        truth = json.loads(line)
        gesture, name, hand = truth["gesture"], truth["image_id"], truth["hands"][0]
        if gesture not in archives:
            archives[gesture] = zipfile.ZipFile(folder / f"{gesture}.zip")
        joints = np.array(hand["joints_2d"])
        yield known_of(truth), archives[gesture].read(f"{gesture}/{name}.jpg"), joints


def known_of(truth: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a drawn picture that its truth has."""
    hand = truth["hands"][0]
    return {
        "name": truth["image_id"],
        "pair": truth.get("pair", truth["image_id"]),
        "person": truth["user_id"],
        "wrong": truth["kind"] == "wrong",
        "flaws": np.array([flaw in hand["flaws"] for flaw in FLAWS]),
        "fingers": hand["fingers"],
        "visible": all_visible(np.array(hand["joints_2d"])),
    }
