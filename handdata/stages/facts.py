"""The stage `facts`: size, sha256 and perceptual hash of the stored images. The smallest example of a stage."""

import hashlib
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from handdata.stages import Columns
from handdata.vision.pixels import UnreadableImage, open_image


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


def perceptual_hash(image: Image.Image) -> str:
    """Return 16 hex digits for a PIL image: the signs of its 8 x 8 lowest frequencies against their median.

    Scaling and recompression flip few of the 64 bits. (DCT variant of C. Zauner, 2010, "Implementation and Benchmarking
    of Perceptual Image Hash Functions", section 3.2.1)
    """
    size, keep = 32, 8
    pixels = np.asarray(image.convert("L").resize((size, size)), dtype=np.float64)  # (32, 32)
    frequency, place = np.arange(1, keep + 1)[:, None], np.arange(size)[None, :]  # 1 to 8: without the mean
    cosines = np.cos(np.pi * frequency * (2 * place + 1) / (2 * size))  # (8, 32)
    spectrum = cosines @ pixels @ cosines.T  # (8, 8)
    bits = (spectrum > np.median(spectrum)).flatten()
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


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
