"""The stage `facts`: size, sha256 and perceptual hash of the stored images. The smallest example of a stage."""

import hashlib
from typing import Any, ClassVar

from handdata.stages import Columns
from handdata.vision.pixels import UnreadableImage, open_image
from handdata.vision.similarity import perceptual_hash


class ImageFacts:
    """Measure the stored images."""

    version: ClassVar = 1
    inputs: ClassVar = ("image",)
    final_reasons: ClassVar = frozenset({"image-corrupt"})

    @staticmethod
    def fingerprint(options: None) -> None:
        return None

    @staticmethod
    def packages(options: None) -> tuple[str, ...]:
        return ("pillow", "numpy")

    def __init__(self, options: None = None) -> None:
        pass

    def __call__(self, columns: Columns) -> Columns:
        """Take `image` (bytes or None); return `width`, `height`, `bytes`, `digest`, `phash` and `reason`."""
        rows = [_facts(data) for data in columns["image"]]
        names = ("width", "height", "bytes", "digest", "phash", "reason")
        return {name: [row.get(name) for row in rows] for name in names}


def _facts(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {"reason": "image-missing"}
    try:
        with open_image(data) as image:
            width, height = image.size
            phash = perceptual_hash(image)
    except UnreadableImage:
        return {"reason": "image-corrupt"}
    digest = hashlib.sha256(data).hexdigest()
    return {"width": width, "height": height, "bytes": len(data), "digest": digest, "phash": phash}
