"""EXIF of any type: an orientation turns the image or is ignored, and no image stops the work."""

import struct

import numpy as np
import pytest
from PIL import Image

from handdata.recipe import ImageOptions
from handdata.sources.jpeg import store
from handdata.vision.pixels import open_image, upright
from handtrain.evaluation.image_sets import Preparation
from tests.pictures import picture, saved

RGB = picture()
ORIENTATION, GPS, EXIF_IFD = 0x0112, 0x8825, 0x8769


def exif(*entries: tuple[int, int, int, bytes], tail: bytes = b"") -> bytes:
    """Return EXIF of entries (tag, type, count, four bytes of value or offset); `tail` follows at offset 8 + table."""
    table = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")[:4] for tag, kind, count, value in entries
    )
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + bytes(4) + tail


def at(entries: int) -> bytes:
    """Return the offset of the tail after so many entries."""
    return struct.pack("<I", 8 + 2 + 12 * entries + 4)


ODD = {
    "rational": exif((ORIENTATION, 5, 1, at(1)), tail=struct.pack("<II", 6, 1)),
    "rational over 0": exif((ORIENTATION, 10, 1, at(1)), tail=struct.pack("<ii", 6, 0)),
    "text": exif((ORIENTATION, 2, 2, b"6\0")),
    "bytes": exif((ORIENTATION, 7, 4, b"\6\0\0\0")),
    "floating point": exif((ORIENTATION, 11, 1, struct.pack("<f", 6.0))),
    "outside of 1 to 8": exif((ORIENTATION, 3, 1, struct.pack("<H", 9))),
    "an offset beyond the end": exif((ORIENTATION, 12, 900, struct.pack("<I", 2**31))),
    "an unknown type": exif((ORIENTATION, 77, 1, b"\6")),
    "cut off": exif((ORIENTATION, 3, 1, b"\6\0"))[:20],
    "a wrong head": b"Exif\0\0XX*\0" + bytes(12),
    "odd neighbours": exif(
        (0x011A, 2, 3, b"72\0"), (0x0128, 5, 1, at(4)), (GPS, 2, 4, b"here"), (EXIF_IFD, 3, 1, b"\1"),
        tail=struct.pack("<II", 1, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_c4_odd_exif_is_ignored_and_the_image_is_used(format, kind):
    plain = saved(RGB, format)
    data = saved(RGB, format, exif=ODD[kind])
    with open_image(data) as image, open_image(plain) as untagged:
        assert np.array_equal(np.asarray(upright(image)), np.asarray(upright(untagged)))
    stored = store(data, ImageOptions())
    assert (stored.orig_width, stored.orig_height) == (48, 32)
    assert store(plain, ImageOptions()).data == stored.data
    assert Preparation(16, "center")(data, None).shape == (16, 16, 3)


@pytest.mark.parametrize(("orientation", "turn"), [
    (2, Image.Transpose.FLIP_LEFT_RIGHT), (5, Image.Transpose.TRANSPOSE), (7, Image.Transpose.TRANSVERSE),
    (8, Image.Transpose.ROTATE_90),
])  # fmt: skip
@pytest.mark.parametrize("kind", [3, 4])  # SHORT, and LONG, which some programs write
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_c4_an_orientation_is_applied_once_in_every_format(format, kind, orientation, turn):
    if format == "TIFF":  # its own tags are its EXIF
        data = saved(RGB, "TIFF", tiffinfo={ORIENTATION: orientation})
        entry = struct.pack("<HHII", ORIENTATION, 3, 1, orientation)
        assert data.count(entry) == 1
        data = data.replace(entry, struct.pack("<HHII", ORIENTATION, kind, 1, orientation))
    else:
        tag = exif((ORIENTATION, kind, 1, struct.pack("<I", orientation)))
        data = saved(RGB, format, exif=tag, **({"lossless": True} if format == "WEBP" else {}))
    with open_image(data) as image:
        pixels = np.asarray(upright(image))
    assert np.array_equal(pixels, np.asarray(Image.fromarray(RGB).transpose(turn)))


@pytest.mark.parametrize("kind", [2, 5, 7, 11, 12])
def test_c4_a_tiff_with_an_odd_orientation_is_read(kind):
    entry = struct.pack("<HHII", ORIENTATION, 3, 1, 6)
    data = saved(RGB, "TIFF", tiffinfo={ORIENTATION: 6}).replace(entry, struct.pack("<HHII", ORIENTATION, kind, 1, 6))
    with open_image(data) as image:
        assert np.array_equal(np.asarray(upright(image)), RGB)
