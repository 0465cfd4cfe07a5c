"""Pixels of every kind become the same upright sRGB at every door; true colours come from plain numpy."""

import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from handdata.recipe import ImageOptions
from handdata.sources.jpeg import store
from handdata.stages.fetch import converted
from handdata.vision.landmarks import decode
from handdata.vision.pixels import open_image, to_rgb
from handtrain.data.crops import square, window
from handtrain.evaluation.image_sets import Preparation
from tests.pictures import (
    ADOBE_TO_XYZ,
    P3_TO_XYZ,
    SRGB_TO_XYZ,
    grey,
    of_lab,
    on_white,
    picture,
    png,
    png16,
    profile,
    saved,
    shown,
)

RGB = picture()
GREY = RGB[:, :, 1]
ALPHA = np.linspace(0, 255, RGB.shape[1] * RGB.shape[0]).reshape(GREY.shape).round().astype(np.uint8)
OPACITY = ALPHA / 255
DEEP = (RGB.astype(np.uint16) << 8) + picture(seed=1)  # 16 bits whose low bytes differ from the high ones
KEY = tuple(int(value) for value in DEEP[3, 5])
PALETTE = Image.fromarray(RGB).quantize(32)
INDICES, COLOURS = np.asarray(PALETTE), np.asarray(PALETTE.convert("RGB")).astype(float)
OPACITIES = np.random.default_rng(3).integers(0, 256, 32, dtype=np.uint8)
CMYK = np.dstack([RGB, GREY // 3])
INKS = 255 * (1 - CMYK[..., :3] / 255) * (1 - CMYK[..., 3:] / 255)
LAB = np.dstack([GREY, RGB[:, :, 0] // 16 + 120, RGB[:, :, 2] // 16 + 120])  # L* of 255 steps, a* and b* around 128
NIBBLES = GREY // 16
BITS = np.asarray(Image.fromarray(GREY).convert("1"))


def tiff(values: np.ndarray, tags: dict[int, int]) -> bytes:
    """Return an uncompressed little-endian TIFF with one strip."""
    height, width = values.shape[:2]
    entries = {256: width, 257: height, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: values.nbytes, **tags}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + values.tobytes()


def keyed(colours: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the colours with white at the transparent places."""
    return np.where(where[..., None], 255.0, colours)


CASES = {
    "16-bit RGB": (png16(DEEP), DEEP / 257),
    "16-bit RGB with a transparent colour": (
        png16(DEEP, (b"tRNS", struct.pack(">3H", *KEY))), keyed(DEEP / 257, (DEEP == KEY).all(axis=2))
    ),
    "16-bit RGBA": (png16(np.dstack([DEEP, ALPHA.astype(np.uint16) * 257])), on_white(DEEP / 257, OPACITY)),
    "16-bit grey with alpha": (
        png16(np.dstack([DEEP[:, :, 0], ALPHA.astype(np.uint16) * 257])), on_white(grey(DEEP[:, :, 0] / 257), OPACITY)
    ),
    "16-bit grey with a transparent value": (
        png16(DEEP[:, :, 2], (b"tRNS", struct.pack(">H", int(DEEP[4, 4, 2])))),
        keyed(grey(DEEP[:, :, 2] / 257), DEEP[:, :, 2] == DEEP[4, 4, 2]),
    ),
    "16-bit TIFF, white is 0": (tiff(DEEP[:, :, 0].astype("<u2"), {258: 16, 262: 0}), grey(255 - DEEP[:, :, 0] / 257)),
    "32-bit TIFF": (tiff(GREY.astype("<u4") * 0x01010101, {258: 32}), grey(GREY)),
    "floating point TIFF": (saved((GREY / 255).astype(np.float32), "TIFF"), grey(GREY)),
    "4-bit grey with a transparent value": (
        png(NIBBLES[:, 0::2] << 4 | NIBBLES[:, 1::2], 48, 4, 0, (b"tRNS", struct.pack(">H", int(NIBBLES[6, 6])))),
        keyed(grey(NIBBLES * 17), NIBBLES[6, 6] == NIBBLES),
    ),
    "1 bit": (saved(Image.fromarray(BITS), "PNG"), grey(BITS * 255)),
    "1 bit in a TIFF": (saved(Image.fromarray(BITS), "TIFF", compression="group4"), grey(BITS * 255)),
    "grey JPEG": (saved(GREY, "JPEG", quality=100), grey(GREY)),
    "hidden colours in WEBP": (
        saved(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True), on_white(RGB, OPACITY)
    ),
    "opacity in the palette": (
        saved(PALETTE, "PNG", transparency=OPACITIES.tobytes()), on_white(COLOURS, OPACITIES[INDICES] / 255)
    ),
    "one transparent colour of a palette": (saved(PALETTE, "GIF", transparency=7), keyed(COLOURS, INDICES == 7)),
    "premultiplied TIFF": (
        tiff(np.dstack([np.round(RGB * OPACITY[..., None]).astype(np.uint8), ALPHA]), {258: 8, 262: 2, 277: 4, 338: 1}),
        on_white(RGB, OPACITY),
    ),
    "CMYK JPEG": (saved(Image.fromarray(CMYK, "CMYK"), "JPEG", quality=100, subsampling=0), INKS),
    "CMYK TIFF": (saved(Image.fromarray(CMYK, "CMYK"), "TIFF"), INKS),
    "L*a*b* TIFF": (
        saved(Image.fromarray(LAB ^ np.array([0, 128, 128], dtype=np.uint8), "LAB"), "TIFF"),
        of_lab(LAB * (100 / 255, 1, 1) - (0, 128, 128)),
    ),
    "wide gamut": (
        saved(RGB, "PNG", icc_profile=profile(2.2, ADOBE_TO_XYZ)), shown(RGB / 255, 2.2, ADOBE_TO_XYZ)
    ),
    "wide gamut with alpha": (
        saved(np.dstack([RGB, ALPHA]), "PNG", icc_profile=profile(1.8, P3_TO_XYZ)),
        on_white(shown(RGB / 255, 1.8, P3_TO_XYZ), OPACITY),
    ),
    "a large profile": (
        saved(RGB, "PNG", icc_profile=profile(2.2, P3_TO_XYZ, junk=3_000_000)), shown(RGB / 255, 2.2, P3_TO_XYZ)
    ),
    "linear sRGB": (saved(RGB, "WEBP", lossless=True, icc_profile=profile(1, SRGB_TO_XYZ)),
                    shown(RGB / 255, 1, SRGB_TO_XYZ)),
    "grey with a profile": (saved(GREY, "PNG", icc_profile=profile(1.5)), shown(GREY / 255, 1.5)),
    "grey with a profile of RGB": (
        saved(GREY, "TIFF", icc_profile=profile(1.7, SRGB_TO_XYZ)), shown(grey(GREY) / 255, 1.7, SRGB_TO_XYZ)
    ),
    "linear grey of 16 bits": (
        saved(DEEP[:, :, 0], "PNG", icc_profile=profile(1.0)), shown(DEEP[:, :, 0] / 65535, 1.0)
    ),
    "palette with a profile": (
        saved(PALETTE, "PNG", icc_profile=profile(2.2, ADOBE_TO_XYZ)), shown(COLOURS / 255, 2.2, ADOBE_TO_XYZ)
    ),
    "damaged profile": (saved(RGB, "PNG", icc_profile=profile(2.2, P3_TO_XYZ)[:200]), RGB),
    "a profile for other pixels": (saved(RGB, "PNG", icc_profile=profile(2.2)), RGB),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_a1_every_kind_is_within_2_of_its_true_colours(kind):
    data, truth = CASES[kind]
    with open_image(data) as image:
        pixels = to_rgb(image)
    assert pixels.mode == "RGB" and not pixels.info
    assert np.abs(np.asarray(pixels) - truth).max() <= 2


@pytest.mark.parametrize("kind", CASES)
def test_a1_every_kind_is_published_within_a_mean_of_3_and_without_metadata(kind):
    data, truth = CASES[kind]
    truth = np.asarray(Image.fromarray(np.round(truth).astype(np.uint8)).resize((96, 64), Image.Resampling.BICUBIC))
    with open_image(store(data, ImageOptions()).data) as stored:
        assert (stored.format, stored.mode) == ("JPEG", "RGB")
        assert not stored.getexif() and "icc_profile" not in stored.info
        larger = stored.resize((96, 64), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(larger).astype(float) - truth).mean() <= 3


@pytest.mark.parametrize("kind", ["16-bit RGBA", "wide gamut", "grey JPEG"])
def test_a1_all_doors_show_the_same(kind):
    data = CASES[kind][0]
    with open_image(data) as image:
        expected = np.asarray(to_rgb(image))
    assert np.array_equal(decode(data), expected)
    assert np.array_equal(Preparation(0, "center")(data, None), expected)
    cut = square(data, window(48, 32, 32)).transpose(1, 2, 0)
    assert np.abs((cut + 1) * 127.5 - expected[:, 8:40]).max() < 0.01


def test_a1_inks_of_other_programs_than_adobes_are_not_inverted():
    data = CASES["CMYK JPEG"][0]
    start = data.index(b"\xff\xee")
    plain = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    inverted = 255 * (CMYK[..., :3] / 255) * (CMYK[..., 3:] / 255)  # the file holds 255 - ink
    with open_image(plain) as image:
        assert np.abs(np.asarray(to_rgb(image)) - inverted).max() <= 2


def jpeg(**options: object) -> bytes:
    return saved(RGB, "JPEG", quality=95, **options)


def srgb_profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("options", [
    {}, {"icc_profile": srgb_profile().replace(b"s\0R\0G\0B", b"P\0a\0l\0m")}, {"progressive": True},
    {"icc_profile": b"not a profile" * 20}, {"icc_profile": profile(2.2)},
])  # fmt: skip
def test_a1_the_stream_of_srgb_in_three_channels_is_kept(options):
    stored = store(jpeg(**options), ImageOptions())
    with Image.open(io.BytesIO(stored.data)) as image, Image.open(io.BytesIO(jpeg(**options))) as before:
        assert np.array_equal(np.asarray(image), np.asarray(before))
    assert not stored.converted


@pytest.mark.parametrize(("data", "notes"), [
    (jpeg(icc_profile=profile(2.2, P3_TO_XYZ, name="sRGB IEC61966-2.1")), ("profile",)),
    (saved(GREY, "JPEG"), ("grey",)),
    (jpeg(keep_rgb=True), ()),
    (CASES["CMYK JPEG"][0], ("cmyk",)),
    (CASES["16-bit grey with alpha"][0], ("transparent",)),
    (CASES["linear grey of 16 bits"][0], ("grey", "16-bit", "profile")),
    (CASES["damaged profile"][0], ("damaged-profile",)),
])  # fmt: skip
def test_a1_everything_else_is_converted_and_counted(data, notes):
    stored = store(data, ImageOptions())
    assert stored.converted == notes
    with Image.open(io.BytesIO(stored.data)) as image:
        assert image.mode == "RGB" and image.app.keys() == {"APP0"}


def test_a1_conversions_are_counted_over_a_build():
    words = {"a": "grey, profile", "b": None, "c": "grey"}
    receipts = {name: SimpleNamespace(converted=of_image) for name, of_image in words.items()}
    assert converted(receipts, list(words)) == {"grey": 2, "profile": 1}
