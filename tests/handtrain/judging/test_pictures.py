import json
import os

import pytest

from handdata.errors import UserError
from handdata.vision import pixels
from handtrain.judging.pictures import open_folder


def touch(folder, *names, text=""):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def prompts(folder):
    return {picture.name: picture.prompt for picture in open_folder(folder).pictures}


def test_images_of_all_subfolders_are_listed_in_order_and_hidden_files_are_not(tmp_path):
    touch(tmp_path, "b.PNG", "a/z.webp", "a/y.jpeg", "notes.pdf", ".cache/x.png", "a/._y.jpeg", "c.avif")
    folder = open_folder(tmp_path)
    assert [picture.name for picture in folder.pictures] == ["a/y.jpeg", "a/z.webp", "b.PNG", "c.avif"]
    assert folder.others == 1


def test_prompts_come_from_text_files_csv_files_and_generation_jsonl(tmp_path):
    touch(tmp_path, "a.png", "b.png", "sub/c.png", "sub/d.png", "e.png")
    touch(tmp_path, "a.txt", text="\ufeffa hand\n of  a man\n")
    (tmp_path / "list.csv").write_text('Seed,File_Name,Prompt\n1,b.png,"fists, two"\n2,a.png,not this\n', "utf-8")
    (tmp_path / "sub" / "generation.jsonl").write_text(json.dumps({"file": "c.png", "prompt": "a palm"}) + "\n")
    assert prompts(tmp_path) == {
        "a.png": "a hand of a man", "b.png": "fists, two", "sub/c.png": "a palm", "sub/d.png": None, "e.png": None,
    }  # fmt: skip


def test_lists_that_cannot_be_read_are_noted_and_cost_only_the_prompts(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.csv").write_bytes(b"file,prompt\nb.png,\xff\n")
    (tmp_path / "scores.csv").write_text("image,score\nb.png,1\n")
    folder = open_folder(tmp_path)
    assert [picture.prompt for picture in folder.pictures] == [None, None]
    assert len(folder.notes) == 2 and "a.txt is not UTF-8" in " ".join(folder.notes)


def test_a_folder_without_an_image_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="contains no image"):
        open_folder(tmp_path)
    touch(tmp_path, "a.pdf")
    with pytest.raises(UserError, match="contains no image"):
        open_folder(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        open_folder(tmp_path / "a.pdf")


def test_a_name_that_is_not_utf8_becomes_text_that_is(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    (picture,) = open_folder(tmp_path).pictures
    assert picture.name.encode("utf-8") and picture.path.is_file()


def test_heic_is_an_image_and_without_its_package_the_reason_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "_heif_installed", lambda: False)
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    (picture,) = open_folder(tmp_path).pictures
    expected = pytest.raises(pixels.UnreadableImage, match=r"HEIC, which needs: pip install 'hand1000\[heif\]'")
    with expected, pixels.open_image(picture.path):
        pass
