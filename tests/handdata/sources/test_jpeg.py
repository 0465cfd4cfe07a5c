"""Storing photographs: streams kept where possible, orientation applied, nothing kept but the pixels."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from handdata.recipe import ImageOptions
from handdata.sources.jpeg import store, strip
from handdata.vision.pixels import UnreadableImage
from tests.hagrid import jpeg

OPTIONS = ImageOptions(short_side=512)


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """A smooth picture whose corners differ: red, green, blue and white."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def saved(image: Image.Image, format: str = "JPEG", **save: object) -> bytes:
    output = io.BytesIO()
    image.save(output, format, **{"quality": 95, **save})
    return output.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x8825] = {1: "N", 2: (55.0, 45.0, 0.0)}  # a place
    tags[0x010F] = "SecretCamera"
    return tags


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)


@pytest.mark.parametrize(
    "save", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}]
)
def test_a_stream_that_needs_no_change_is_kept_but_for_its_metadata(save):
    data = saved(picture(), exif=exif(1), comment=b"secret comment", icc_profile=b"profile" * 100, **save)
    stored = store(data, OPTIONS)
    assert np.array_equal(pixels(stored.data), pixels(data))
    assert (stored.orig_width, stored.orig_height) == (60, 40)
    assert b"Secret" not in stored.data and b"secret" not in stored.data and b"profile" not in stored.data
    assert not Image.open(io.BytesIO(stored.data)).getexif()
    plain = saved(picture(), **save)
    assert strip(plain) == stored.data, "the same picture without metadata is stored as the same bytes"
    assert store(stored.data, OPTIONS).data == stored.data


def test_bytes_after_the_end_are_removed_too():
    data = saved(picture())
    assert store(data + b"trailing secret" * 100, OPTIONS).data == store(data, OPTIONS).data


def test_several_pictures_in_one_file_become_the_first():
    output = io.BytesIO()
    picture().save(output, "MPO", save_all=True, append_images=[picture(30, 20)], quality=95)
    stored = store(output.getvalue(), OPTIONS)
    assert np.array_equal(pixels(stored.data), pixels(saved(picture())))
    assert len(stored.data) < len(saved(picture())) + 10


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_applied_to_the_pixels(orientation):
    image = picture()
    stored = store(saved(image, exif=exif(orientation)), OPTIONS)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(saved(image, exif=exif(orientation)))))
    actual = pixels(stored.data)
    assert actual.shape == (upright.height, upright.width, 3)
    assert np.abs(actual - np.asarray(upright, dtype=int)).mean() < 3
    assert (stored.orig_width, stored.orig_height) == upright.size
    assert not Image.open(io.BytesIO(stored.data)).getexif()
    assert b"Secret" not in stored.data


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1080, 1920), 512, (512, 910)),
        ((1920, 1080), 512, (910, 512)),
        ((513, 513), 512, (512, 512)),
        ((512, 700), 512, (512, 700)),
        ((300, 200), 512, (300, 200)),
        ((1080, 1920), 0, (1080, 1920)),
    ],
)
def test_the_short_side_is_made_smaller_but_never_larger(size, short_side, expected):
    stored = store(saved(picture(*size)), ImageOptions(short_side))
    assert Image.open(io.BytesIO(stored.data)).size == expected
    assert (stored.orig_width, stored.orig_height) == size


def test_resizing_keeps_the_picture():
    stored = store(saved(picture(1200, 800)), ImageOptions(100))
    assert np.abs(pixels(stored.data) - pixels(saved(picture(150, 100)))).mean() < 3


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_another_format_under_the_name_jpg_becomes_a_jpeg(format):
    stored = store(saved(picture(), format), OPTIONS)
    assert stored.data[:2] == b"\xff\xd8"
    assert np.abs(pixels(stored.data) - pixels(saved(picture()))).mean() < 3


def test_a_transparent_png_and_a_grey_jpeg_are_stored():
    assert store(saved(picture().convert("RGBA"), "PNG"), OPTIONS).data[:2] == b"\xff\xd8"
    grey = saved(picture().convert("L"))
    assert Image.open(io.BytesIO(store(grey, OPTIONS).data)).mode == "RGB"


def test_colours_that_depend_on_an_adobe_segment_are_stored_right():
    cmyk = saved(picture().convert("CMYK"))
    assert strip(cmyk) is None
    actual = pixels(store(cmyk, OPTIONS).data)
    assert np.abs(actual - pixels(cmyk)).mean() < 3
    rgb = bytearray(saved(picture(), keep_rgb=True))
    assert strip(bytes(rgb)) is None, "three components that are not YCbCr"
    assert np.abs(pixels(store(bytes(rgb), OPTIONS).data) - pixels(bytes(rgb))).mean() < 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_part_of_a_file_is_truncated(share):
    data = jpeg(0, (640, 480))
    with pytest.raises(UnreadableImage) as raised:
        store(data[: int(len(data) * share)], OPTIONS)
    assert raised.value.reason == "image-truncated"


@pytest.mark.parametrize(
    "data", [b"", b"no image at all", b"\xff\xd8\xff", b"GIF89a" + bytes(100), b"\x89PNG\r\n\x1a\n"]
)
def test_a_file_that_is_not_a_photograph_is_corrupt(data):
    with pytest.raises(UnreadableImage) as raised:
        store(data, OPTIONS)
    assert raised.value.reason in ("image-corrupt", "image-truncated")


def test_damaged_exif_does_not_lose_the_picture():
    data = bytearray(saved(picture(), exif=exif(6)))
    place = data.find(b"Exif\0\0") + 6
    data[place : place + 40] = b"\xab" * 40
    stored = store(bytes(data), OPTIONS)
    assert (stored.orig_width, stored.orig_height) == (60, 40)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    header = saved(picture())
    start = header.find(b"\xff\xc0")
    huge = header[: start + 5] + (20_000).to_bytes(2, "big") * 2 + header[start + 9 :]
    with pytest.raises(UnreadableImage) as raised:
        store(huge, OPTIONS)
    assert raised.value.reason == "too-many-pixels"


def test_a_file_without_its_end_marker_is_truncated():
    with pytest.raises(UnreadableImage) as raised:
        store(saved(picture())[:-2], OPTIONS)
    assert raised.value.reason == "image-truncated"
