"""Image files as pixels: the one place that opens them and turns whatever they hold into upright sRGB.

Only known formats are opened: Pillow would start Ghostscript for EPS. Whatever Pillow raises on damaged data becomes
`UnreadableImage`.
"""

import errno
import io
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from handdata.vision import png, profiles

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # the last one where Pillow has it
PIXELS = 2  # increased when other pixels come from the same file; part of the keys of caches
MAX_PIXELS = 100_000_000  # HaGRID's largest photographs have 12 million

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1")  # brands of files that pillow-heif opens
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 0x0102, 0x0106, 0x0153  # tags of TIFF and EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """The bytes are not a whole image of a known format. `reason` is one of `schema.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason  # image-corrupt, image-truncated, too-many-pixels or odd-shape


@contextmanager
def open_image(source: bytes | Path) -> Iterator[Image.Image]:
    """Open an image file; its pixels are decoded when they are first read, inside the block.

    Of several pictures in a file the first one is opened. Raises `UnreadableImage` for damaged data, also where that is
    noticed inside the block, and `OSError` for a file that cannot be read.
    """
    data = source.read_bytes() if isinstance(source, Path) else source
    try:
        with _opened(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage("too-many-pixels", f"{image.width} x {image.height} pixels")
            yield image if image.format != "PNG" else _with_colour_key(image, data)
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too-many-pixels", str(error)) from None
    except Exception as error:
        if not _is_of_the_image(error):
            raise
        text = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            text = "not an image of a known format"
            if _is_heic(data) and not _heif_installed():
                text = "HEIC, which needs: pip install 'hand1000[heif]'"
        raise UnreadableImage("image-truncated" if "truncated" in text.lower() else "image-corrupt", text) from None


def upright(image: Image.Image, notes: list[str] | None = None) -> Image.Image:
    """Return the picture in sRGB (RGB), turned as its EXIF states; see `to_rgb`."""
    pixels = to_rgb(image, notes)  # first: a PNG's orientation may follow its pixels, and a TIFF is turned by Pillow
    return turned(pixels, orientation(image))


def orientation(image: Image.Image) -> int:
    """Return the orientation in an image's EXIF, 1 to 8; 1 without one, or with one of another type."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception as error:
        if not _is_of_the_image(error):
            raise
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image turned upright from an EXIF orientation (1 to 8)."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def to_rgb(image: Image.Image, notes: list[str] | None = None) -> Image.Image:
    """Return an image of any kind as RGB in sRGB, three channels of 8 bits, on white where it is transparent.

    16 bits are scaled, colour profiles applied. `notes` gets a word for each change of that kind: `grey`, `16-bit`,
    `cmyk`, `lab`, `transparent`, `profile`, and `damaged-profile` for one that could not be applied.
    """
    notes = [] if notes is None else notes
    image.load()
    alpha = _alpha(image)
    pixels = _srgb(_plain(image, notes), image.info.get("icc_profile"), notes)
    pixels.info = {}  # its EXIF and profile are not those of these pixels
    if alpha is None or alpha.getextrema() == (255, 255):
        return pixels
    notes.append("transparent")
    paper = Image.new("RGB", pixels.size, (255, 255, 255))
    paper.paste(pixels, mask=alpha)
    return paper


def _opened(data: bytes) -> Image.Image:
    formats = _formats()
    if data[:3] == b"\xff\xd8\xff":  # not by Image.open, which reads the directory of further pictures (MPO) first
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    if _is_heic(data) and _heif_installed():
        return Image.open(io.BytesIO(data), formats=("HEIF",))
    if data[:8] != png.SIGNATURE:
        image = Image.open(io.BytesIO(data), formats=formats)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and not isinstance(image.tag_v2.get(_ORIENTATION, 1), int):
            del image.tag_v2[_ORIENTATION]
        return image
    simplified, profile = png.simplified(data)
    image = Image.open(io.BytesIO(simplified), formats=("PNG",))
    if profile:
        image.info["icc_profile"] = profile
    return image


def _is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC


@cache
def _heif_installed() -> bool:
    """Register pillow-heif with Pillow; return whether it is installed (the extra `heif`)."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that Pillow can open, and turn off its warnings on files that it can read nevertheless."""
    Image.init()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_of_the_image(error: Exception) -> bool:
    """Return whether Pillow raised an error for its data, not our code or the system."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return False
    names = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith(("PIL.", "pillow_heif")) for name in names) or isinstance(error, MemoryError)


def _with_colour_key(image: Image.Image, data: bytes) -> Image.Image:
    """Return a PNG whose transparent colour has the scale of Pillow's pixels, or became an alpha channel."""
    key, depth = image.info.get("transparency"), png.bit_depth(data)
    if image.mode == "L" and isinstance(key, int) and depth < 8:
        image.info["transparency"] = key * 255 // (2**depth - 1)
    elif image.mode == "RGB" and isinstance(key, tuple) and depth == 16:
        return _keyed_16_bit(image, data, key)
    return image


def _keyed_16_bit(image: Image.Image, data: bytes, key: tuple[int, ...]) -> Image.Image:
    """Return RGBA for a PNG of 3 x 16 bits with a transparent colour, which both bytes of each channel decide."""
    with Image.open(io.BytesIO(png.simplified(data)[0]), formats=("PNG",)) as other:
        other.tile = [tile._replace(args="RGB;16L") for tile in other.tile]  # type: ignore[attr-defined]  # low bytes
        low = np.asarray(other, dtype=int)
    values = np.asarray(image, dtype=int) * 256 + low
    alpha = np.where((values == key).all(axis=2), 0, 255).astype(np.uint8)
    keyed = image.convert("RGB")
    keyed.putalpha(Image.fromarray(alpha))
    keyed.info = {name: value for name, value in image.info.items() if name != "transparency"}
    keyed.format = image.format
    return keyed


def _alpha(image: Image.Image) -> Image.Image | None:
    """Return the opacity of an image (L), None without any."""
    if image.mode in ("RGBA", "LA", "RGBa", "La"):
        return image.getchannel(image.mode[-1])
    if image.mode == "PA":
        return image.getchannel("A")
    key = image.info.get("transparency")
    if key is None:
        return None
    if image.mode.startswith("I"):
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    return image.convert("RGBA").getchannel("A") if image.mode in ("1", "L", "P", "RGB") else None


def _plain(image: Image.Image, notes: list[str]) -> Image.Image:
    """Return an image without transparency as L, I;16, RGB, CMYK or LAB."""
    mode = image.mode
    if mode in ("1", "L", "LA", "La") or mode.startswith(("I", "F")):
        notes.append("grey")
    if mode in ("1", "L"):
        return image.convert("L")
    if mode in ("LA", "La"):
        return image.convert("LA").getchannel("L")
    if mode.startswith(("I", "F")):
        notes.append("16-bit")
        return Image.fromarray(_sixteen_bits(image))
    if mode in ("P", "PA", "RGBA", "RGBa"):
        return image.convert("RGBA").convert("RGB")
    if mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        return Image.fromarray(255 - np.asarray(image), "CMYK")  # Pillow inverts all; only Adobe's are stored inverted
    return image.copy() if mode in ("CMYK", "LAB") else image.convert("RGB")


def _srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Return L, I;16, RGB, CMYK or LAB as RGB in sRGB."""
    if image.mode in ("CMYK", "LAB"):
        notes.append(image.mode.lower())
    if image.mode == "LAB":
        return profiles.lab_to_srgb(image)
    if profile:
        try:
            converted = profiles.to_srgb(image, profile)
        except profiles.DamagedProfile:
            notes.append("damaged-profile")
        else:
            notes += ["profile"] if converted is not image else []
            return converted
    return profiles.grey(image).convert("RGB")


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    """Return the pixels of a grey image of more than 8 bits as uint16, black 0 and white 65535.

    White is the largest value of the file's number of bits; in floating point it is 1, or 255 or 65535 where values
    exceed the smaller one. Numbers of 32 bits that are all below 65536 count as 16 bits: Pillow stores such so too.
    """
    tags = getattr(image, "tag_v2", {})
    bits, kind = (tags.get(tag, (default,)) for tag, default in ((_BITS, 16), (_SAMPLE_FORMAT, 1)))
    bits, kind = (value[0] if isinstance(value, tuple) else value for value in (bits, kind))
    values = np.asarray(image)
    if image.mode == "I" and kind == 1 and bits == 32:
        values = values.view(np.uint32)
    values = np.nan_to_num(values.astype(np.float64), posinf=65535.0, neginf=0.0)
    most = float(values.max(initial=0.0))
    if image.mode == "F":
        white = next((limit for limit in (1.0, 255.0, 65535.0) if most <= limit), most)
    elif bits == 32 or (image.mode == "I" and most > 65535):
        white = 65535.0 if most <= 65535 else float(2 ** (32 if kind == 1 and bits == 32 else 31) - 1)
    else:
        white = float(2 ** (bits if kind == 1 else bits - 1) - 1)
    scaled = np.clip(values / white, 0, 1)
    if tags.get(_PHOTOMETRIC) == 0:  # white is 0; Pillow inverts 8 bits only
        scaled = 1 - scaled
    return np.asarray(np.round(scaled * 65535).astype(np.uint16))
