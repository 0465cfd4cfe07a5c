"""Stored photographs: orientation applied to the pixels, metadata removed, reduced to the recipe's short side.

A JPEG that needs neither a rotation nor a resize keeps its stream, so that no quality is lost twice: only its APP and
COM segments (EXIF, which may contain a location; thumbnails; comments) are removed. (ITU-T T.81, annex B)
"""

import io
import re
from dataclasses import dataclass

from handdata.recipe import ImageOptions

MAX_PIXELS = 100_000_000  # HaGRID's largest photographs have 12 million

_ORIENTATION = 0x0112  # EXIF tag
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends a scan's data: any marker except restart and a stuffed byte
_EOI, _SOS, _COM = 0xD9, 0xDA, 0xFE


@dataclass(frozen=True)
class Stored:
    """The bytes of a stored image, and the size of its source after the orientation was applied."""

    data: bytes
    orig_width: int
    orig_height: int


class BadImage(Exception):
    """The photograph cannot be used. `reason` is one of `schema.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def store(data: bytes, options: ImageOptions) -> Stored:
    """Return the image to store for a source file. All its data is decoded once, so that damage is detected.

    Raises `BadImage` (`image-corrupt`, `image-truncated`, `too-many-pixels`).
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage("too-many-pixels", f"{image.width} x {image.height} pixels")
            turned = _orientation(image) not in (None, 1)
            if not turned and image.format in ("JPEG", "MPO") and _target(*image.size, options) == image.size:
                stripped = strip(data)
                if stripped is not None:
                    width, height = image.size
                    image.draft("L", (1, 1))  # reads all data, but computes only every eighth pixel: half the time
                    image.load()
                    return Stored(stripped, width, height)
            image.load()
            upright = ImageOps.exif_transpose(image) if turned else image
            size = _target(*upright.size, options)
            return Stored(_encode(upright, size, options.quality), *upright.size)
    except Image.DecompressionBombError as error:
        raise BadImage("too-many-pixels", str(error)) from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = "image-truncated" if "truncated" in str(error) else "image-corrupt"
        raise BadImage(reason, str(error) or type(error).__name__) from None


def strip(data: bytes) -> bytes | None:
    """Return a JPEG without its APP and COM segments and without bytes after its end, otherwise unchanged.

    Return None where this could change the pixels: an Adobe segment or the names of the components declare three
    components other than YCbCr, there are four components, or the structure is not T.81's.
    """
    kept, position = [b"\xff\xd8"], 2
    if data[:2] != b"\xff\xd8":
        return None
    while (segment := _segment(data, position)) is not None:
        start, kind, end = segment
        if kind == _EOI:
            return b"".join([*kept, b"\xff\xd9"])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and not _plain_components(data[start:end]):
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


def _plain_components(frame: bytes) -> bool:
    """Return whether a frame header's components mean grey or YCbCr without an APP segment."""
    count = frame[9]
    names = frame[10 : 10 + 3 * count : 3]
    return count == 1 or (count == 3 and names != b"RGB")


def _orientation(image: "object") -> int | None:
    """Return the EXIF orientation, None without one or with damaged EXIF."""
    try:
        return image.getexif().get(_ORIENTATION)  # type: ignore[attr-defined, no-any-return]
    except (OSError, SyntaxError, ValueError, KeyError):
        return None


def _target(width: int, height: int, options: ImageOptions) -> tuple[int, int]:
    short = min(width, height)
    if not options.short_side or short <= options.short_side:
        return width, height
    return round(width * options.short_side / short), round(height * options.short_side / short)


def _encode(image: "object", size: tuple[int, int], quality: int) -> bytes:
    from PIL import Image

    pixels: Image.Image = image.convert("RGB")  # type: ignore[attr-defined]
    if pixels.size != size:
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    pixels.info.clear()  # save() would write its EXIF, comment and profile
    output = io.BytesIO()
    pixels.save(output, "JPEG", quality=quality)
    return output.getvalue()
