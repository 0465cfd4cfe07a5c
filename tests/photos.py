"""The reference photographs of HaGRID, where a checkout has them next to it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import SHARED

PHOTOS = SHARED / "photos"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="the reference photographs are not next to the checkout")


def photos() -> Iterator[dict[str, Any]]:
    """Yield the photographs as rows: gesture, image id, boxes, labels."""
    for path in sorted((PHOTOS / "annotations").rglob("*.json")):
        for image_id, row in json.loads(path.read_text()).items():
            yield {"image_id": image_id, "gesture": path.stem, "bboxes": row["bboxes"], "labels": row["labels"]}


def photo_bytes(row: dict[str, Any]) -> bytes:
    return (PHOTOS / "images" / row["gesture"] / f"{row['image_id']}.jpg").read_bytes()
