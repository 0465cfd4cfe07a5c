"""Only known formats are opened, and only by one module: Pillow would start other programs for some."""

import json
import re
import subprocess

import pytest
from PIL import Image

from handdata.recipe import ImageOptions
from handdata.sources.jpeg import store
from handdata.vision.landmarks import decode
from handdata.vision.pixels import UnreadableImage, open_image
from handtrain.evaluation.image_sets import folder_set
from handtrain.generation.pictures import read_record
from handtrain.reporting.page import _image
from tests import ROOT
from tests.pictures import picture, saved

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(x) run\nshowpage\n%%EOF\n"
FOREIGN = {
    "eps": EPS,
    "eps with a DOS head": b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + len(EPS).to_bytes(4, "little")
    + bytes(18) + EPS,
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(80),
    "ppm": saved(picture(), "PPM"),
    "pdf": b"%PDF-1.4\n" + bytes(50),
    "jpeg 2000": saved(picture(), "JPEG2000"),
    "icon": saved(picture(32, 32), "ICO"),
    "text": b"<html>not found</html>",
}  # fmt: skip


@pytest.fixture
def no_programs(monkeypatch):
    """Fail where any process is started."""

    def started(*arguments: object, **_: object) -> None:
        raise AssertionError(f"a process was started: {arguments}")

    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, started)
    Image.init()  # all of Pillow's plug-ins are there


@pytest.mark.parametrize("kind", FOREIGN)
def test_b3_other_formats_are_unreadable_at_every_door_and_start_nothing(kind, tmp_path, no_programs):
    data = FOREIGN[kind]
    with pytest.raises(UnreadableImage) as raised, open_image(data) as image:
        image.load()
    assert (raised.value.reason, str(raised.value)) == ("image-corrupt", "not an image of a known format")
    with pytest.raises(UnreadableImage):
        store(data, ImageOptions())
    assert decode(data) is None
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "whole.png").write_bytes(saved(picture(), "PNG"))
    assert folder_set(tmp_path, "--fake").excluded == {"cannot be decoded": ["a.png", "b.jpg"]}
    assert read_record(tmp_path / "a.png") is None
    assert _image(tmp_path / "a.png", 64) == "cannot be decoded"


def test_b3_a_dataset_of_foreign_bytes_is_one_sentence(no_programs):
    from handdata.dataset.evaluate import pixels
    from handdata.errors import UserError

    with pytest.raises(UserError, match="cannot be decoded"):
        pixels({"bytes": EPS, "path": "a.jpg"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:60] + data[90:],
        lambda data: data.replace(b"IDAT", b"IDAX"),
        lambda data: data[:40],
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_b3_damage_is_one_exception_whatever_pillow_raises(format, damage):
    data = damage(saved(picture(), format))
    try:
        with open_image(data) as image:
            image.load()
    except UnreadableImage as error:
        assert error.reason in ("image-corrupt", "image-truncated", "too-many-pixels")


def test_b3_our_own_errors_inside_the_block_are_not_taken_for_damage():
    with pytest.raises(ValueError, match="ours"), open_image(saved(picture(), "PNG")):
        raise ValueError("ours")
    with pytest.raises(FileNotFoundError), open_image(ROOT / "no such file.png"):
        pass


def test_b3_images_are_opened_and_converted_in_one_module_only():
    """Others may make images and change them; `profiles`, `png` and `pixels` read files and turn them into RGB."""
    hits = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("handdata", "handtrain")
        for path in (ROOT / package).rglob("*.py")
        if path.name not in ("pixels.py", "profiles.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(Image|Pillow|PIL)\.open\(|\.convert\(\s*[\"']RGB|exif_transpose", line)
    ]
    assert not hits, json.dumps(hits, indent=1)
