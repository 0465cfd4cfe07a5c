import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handdata.errors import UserError
from handtrain.evaluation.image_sets import (
    CANNOT_DECODE,
    NO_PARTNER,
    Preparation,
    folder_set,
    partners,
)


def png(width: int = 12, height: int = 12, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, format="PNG")
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def names(images) -> list[str]:
    return [member.name for member in images.members]


@pytest.mark.parametrize("content", [{}, {"notes.txt": b"no image"}])
def test_a_folder_without_an_image_is_one_sentence(content, tmp_path):
    with pytest.raises(UserError, match="contains no image"):
        folder_set(write(tmp_path, content), "--fake")


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"--real .* is not a folder"):
        folder_set(tmp_path / "missing", "--real")


def test_a_corrupt_image_is_left_out_by_name(tmp_path):
    whole = png(200, 200)
    images = folder_set(
        write(tmp_path, {"a.png": whole, "b.png": b"nothing", "c.png": whole[:-40], "d.png": b""}), "--fake"
    )
    assert names(images) == ["a.png"]
    assert images.excluded == {CANNOT_DECODE: ["b.png", "c.png", "d.png"]}


def test_only_corrupt_images_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"none of its 1 images can be decoded, the first is b\.png"):
        folder_set(write(tmp_path, {"b.png": b"nothing"}), "--fake")


def test_images_without_a_partner_are_left_out_of_both_sets(tmp_path):
    one = folder_set(write(tmp_path / "one", {"a.png": png(), "b.png": png()}), "--fake")
    other = folder_set(write(tmp_path / "other", {"b.png": png(), "c.png": png()}), "--base")
    left, right = partners(one, other)
    assert names(left) == names(right) == ["b.png"]
    assert (left.excluded, right.excluded) == ({NO_PARTNER: ["a.png"]}, {NO_PARTNER: ["c.png"]})
    with pytest.raises(UserError, match="no image of the same name"):
        partners(one, folder_set(write(tmp_path / "third", {"x.png": png()}), "--base"))


def test_black_images_are_marked_and_kept(tmp_path):
    images = folder_set(write(tmp_path, {"a.png": png(colour="black"), "b.png": png()}), "--fake")
    assert [member.black for member in images.members] == [True, False]


def test_prompts_are_read_from_generation_jsonl(tmp_path):
    write(tmp_path, {"a.png": png(), "b.png": png()})
    (tmp_path / "generation.jsonl").write_text(json.dumps({"file": "b.png", "prompt": "a hand"}) + "\n")
    assert [member.text for member in folder_set(tmp_path, "--fake").members] == [None, "a hand"]


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, format="JPEG", exif=exif)
    images = folder_set(write(tmp_path, {"a.jpg": file.getvalue()}), "--real")
    assert (images.members[0].width, images.members[0].height) == (20, 30)


def test_preparation_is_torchvisions_resize_and_center_crop():
    from torchvision import transforms

    pixels = np.random.default_rng(0).integers(0, 256, (33, 57, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format="PNG")
    expected = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(16)])(image)
    assert np.array_equal(Preparation(16, "center")(file.getvalue(), None), np.asarray(expected))


def test_the_hand_crop_holds_the_box_and_none_changes_nothing():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[5:15, 48:58] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    box = (48 / 60, 5 / 20, 58 / 60, 15 / 20)
    assert Preparation(20, "hand")(file.getvalue(), box).sum() == pixels.sum()
    assert Preparation(20, "center")(file.getvalue(), box).sum() == 0
    assert np.array_equal(Preparation(0, "center")(file.getvalue(), box), pixels)


def test_the_order_is_that_of_the_names_below_all_folders(tmp_path):
    images = folder_set(write(tmp_path, {"b/a.png": png(), "a.png": png(), "b/0.JPG": png()}), "--real")
    assert names(images) == ["a.png", "b/0.JPG", "b/a.png"]
