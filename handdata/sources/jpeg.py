"""Stored photographs: orientation applied to the pixels, metadata removed, reduced to the recipe's short side.

A JPEG that needs neither a rotation nor a resize, and holds sRGB in three channels, keeps its stream, so that no
quality is lost twice: only its APP and COM segments (EXIF, which may contain a location; thumbnails; comments) are
removed. Everything else is converted to that. (ITU-T T.81, annex B)
"""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handdata.recipe import ImageOptions

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_SIDE, MOST_RATIO = 16, 16  # pixels, and long side to short side: no photograph of a hand is beyond these

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends a scan's data: any marker except restart and a stuffed byte
_EOI, _SOS, _COM = 0xD9, 0xDA, 0xFE


@dataclass(frozen=True)
class Stored:
    """The bytes of a stored image, and the size of its source after the orientation was applied."""

    data: bytes
    orig_width: int
    orig_height: int
    converted: tuple[str, ...] = ()  # changes of the colours, in the words of `pixels.to_rgb`


def store(data: bytes, options: ImageOptions) -> Stored:
    """Return the image to store for a source file. All its data is decoded once, so that damage is detected.

    Raises `UnreadableImage` (`image-corrupt`, `image-truncated`, `too-many-pixels`, `odd-shape`).
    """
    from handdata.vision.pixels import open_image, upright

    notes: list[str] = []
    with open_image(data) as image:
        _require_usual_shape(*image.size)
        stripped = strip(data) if _needs_no_change(image, options) else None
        if stripped is not None:
            width, height = image.size
            image.draft("L", (1, 1))  # reads all data, but computes only every eighth pixel: half the time
            image.load()
            return Stored(stripped, width, height)
        pixels = upright(image, notes)
    size = _target(*pixels.size, options)
    halved = not notes and strip(data) is not None  # a usual JPEG, whose colours have half the resolution as a rule
    return Stored(_encode(pixels, size, options.quality, halved), *pixels.size, tuple(notes))


def _require_usual_shape(width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short < LEAST_SIDE or long > MOST_RATIO * short:
        from handdata.vision.pixels import UnreadableImage

        raise UnreadableImage("odd-shape", f"{width} x {height} pixels")


def _needs_no_change(image: "Image", options: ImageOptions) -> bool:
    """Return whether an opened file holds the pixels to store: an upright JPEG in sRGB of at most the wanted size."""
    from handdata.vision.pixels import orientation
    from handdata.vision.profiles import changes_rgb

    plain = image.format == "JPEG" and image.mode == "RGB" and orientation(image) == 1
    return plain and _target(*image.size, options) == image.size and not changes_rgb(image.info.get("icc_profile"))


def strip(data: bytes) -> bytes | None:
    """Return a JPEG without its APP and COM segments and without bytes after its end, otherwise unchanged.

    Return None where this could change the pixels or programs could not read them: its components are not three of 8
    bits, an Adobe segment or their names declare them other than YCbCr, they are coded arithmetically, or the structure
    is not T.81's.
    """
    kept, position = [b"\xff\xd8"], 2
    if data[:2] != b"\xff\xd8":
        return None
    while (segment := _segment(data, position)) is not None:
        start, kind, end = segment
        if kind == _EOI:
            return b"".join([*kept, b"\xff\xd9"])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and not _usual_frame(kind, data[start:end]):
            return None
        if kind == 0xEE and data[start + 4 : start + 9] == b"Adobe" and data[start + 15 : start + 16] == b"\0":
            return None
        if kind == _SOS:
            following = _MARKER.search(data, end)
            end = following.start() if following else len(data)
        if not (0xE0 <= kind <= 0xEF or kind == _COM):
            kept.append(data[start:end])
        position = end
    return None


def _segment(data: bytes, position: int) -> tuple[int, int, int] | None:
    """Return start, marker and end of the segment at a position, None without one."""
    if data[position : position + 1] != b"\xff":
        return None
    start = position
    while data[start + 1 : start + 2] == b"\xff":  # fill bytes
        start += 1
    if start + 2 > len(data):
        return None
    kind = data[start + 1]
    if kind == _EOI:
        return start, kind, start + 2
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    end = start + 2 + length
    return (start, kind, end) if length >= 2 and end <= len(data) else None


def _usual_frame(kind: int, frame: bytes) -> bool:
    """Return whether a frame is Huffman-coded, of 8 bits, and of YCbCr also without an APP segment."""
    names = frame[10:19:3]
    return kind in (0xC0, 0xC1, 0xC2) and frame[4] == 8 and frame[9] == 3 and names != b"RGB"


def _target(width: int, height: int, options: ImageOptions) -> tuple[int, int]:
    short = min(width, height)
    if not options.short_side or short <= options.short_side:
        return width, height
    return round(width * options.short_side / short), round(height * options.short_side / short)


def _encode(pixels: "Image", size: tuple[int, int], quality: int, halved: bool) -> bytes:
    from PIL import Image

    if pixels.size != size:
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    output = io.BytesIO()
    pixels.save(output, "JPEG", quality=quality, subsampling=-1 if halved else 0)  # -1: 4:2:0
    return output.getvalue()
