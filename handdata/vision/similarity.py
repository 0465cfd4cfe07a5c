"""Hashes of the look of a picture: near-duplicates differ in few of their 64 bits."""

import numpy as np
from PIL import Image


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
    return _hex(spectrum > np.median(spectrum))


def difference_hash(image: Image.Image) -> str:
    """Return 16 hex digits for a PIL image: whether each of 8 x 8 cells is darker than the one to its right.

    Photographs of one burst differ in few bits. (N. Krawetz, 2013, "Kind of Like That")
    """
    pixels = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int64)  # (8, 9)
    return _hex(pixels[:, :-1] < pixels[:, 1:])


def _hex(bits: np.ndarray) -> str:
    return f"{int(''.join('1' if bit else '0' for bit in bits.flatten()), 2):016x}"
