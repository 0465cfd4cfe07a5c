"""Equal photographs give equal rows in whichever form they come; what cannot be used is named in one sentence."""

import io
import json
import tarfile

import pytest
from PIL import Image

from handdata.errors import UserError
from handdata.gestures import Gesture, also
from handdata.huggingface import HubName
from handdata.photos import forms, measure
from handdata.photos.manifest import make_manifest
from handdata.recipe import Recipe, override
from handdata.rows.decisions import Decisions
from tests.builds import draw_jpeg
from tests.handdata.photos import folders
from tests.handdata.photos.folders import FORMS, NAMES, Finder, plain

VULCAN = {"vulcan": Gesture("making vulcan salute hand gesture", ("vulcan salute",))}


@pytest.fixture(autouse=True)
def without_a_model(monkeypatch):
    monkeypatch.setattr(measure, "HandFinder", Finder)


def recipe(texts="none", gestures=("vulcan",), **select):
    return override(
        Recipe("mine"), gesture=VULCAN, select={"gestures": gestures, **select}, photos={"texts": texts},
        source={"kind": "photos", "images": ("photos",)},
    )  # fmt: skip


def made(place, folder, texts="none", gestures=("vulcan",), progress=False):
    with also(VULCAN):
        return make_manifest(place, recipe(texts, gestures), folder / "source", Decisions(), progress)


def rows(place, folder, texts="caption"):
    table = made(place, folder, texts).table
    return table.drop_columns(["source", "member"]).to_pylist()


@pytest.mark.parametrize("form", FORMS)
def test_equal_photographs_give_equal_rows_in_every_form(form, tmp_path):
    expected = rows(plain(tmp_path / "plain"), tmp_path / "one")
    assert len(expected) == len(NAMES) and len({row["subject"] for row in expected}) == 4
    assert rows(FORMS[form](tmp_path / "place"), tmp_path / "two") == expected
    assert not list(tmp_path.parent.glob("*.jpg")), "a tar's names became paths"


def test_a_dataset_on_the_hub_is_its_snapshot_with_the_hubs_name(tmp_path, monkeypatch):
    folder = folders.parquet(tmp_path / "snapshot")
    monkeypatch.setattr(forms, "snapshot", lambda name, kind, option, patterns: folder)
    table = made(HubName("someone/hands", "0" * 40), tmp_path).table
    assert set(table["source"].to_pylist()) == {"hf:someone/hands (copied)"}
    assert all(len(name) == 36 for name in table["member"].to_pylist())  # the hash of the bytes, and .jpg


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_photographs_of_a_tar_with_dots_in_their_names_are_all_kept_with_their_texts(tmp_path):
    names = [f"a/WhatsApp Image 2024-05-01 at 10.15.{second}" for second in range(30, 36)]
    members = {f"{name}.jpeg": draw_jpeg(number, size=80) for number, name in enumerate(names)}
    members |= {f"{names[2]}.txt": b"a person at a wall", "a/b.0.jpg": draw_jpeg(7, size=80), "a/b.txt": b"a wall"}
    found = forms.read(write_tar(tmp_path / "a.tar", members), ("vulcan",), tmp_path / "copies", "--photos").photos
    assert {photo.name: photo.text for photo in found} == {
        **{f"{name}.jpeg": "" for name in names}, f"{names[2]}.jpeg": "a person at a wall", "a/b.0.jpg": "a wall"
    }  # fmt: skip


def test_an_image_id_is_the_hash_of_the_pixels(tmp_path):
    folder = plain(tmp_path / "a")
    before = {row["image_id"] for row in rows(folder, tmp_path)}
    first = folder / "ann" / "0000.jpg"
    with Image.open(first) as image:
        image.save(folder / "ann" / "lossless.png")
    found = made(folder, tmp_path / "b")
    assert {row["image_id"] for row in found.table.to_pylist()} == before
    assert found.odd.examples["photo-repeated"] == ["ann/lossless.png (as ann/0000.jpg)"]


def test_damaged_and_handless_photographs_are_named_and_left_out(tmp_path, capsys):
    folder = plain(tmp_path / "a")
    (folder / "half.jpg").write_bytes(draw_jpeg(50, 80)[:300])
    Image.new("RGB", (64, 64)).save(folder / "dark.png")
    found = made(folder, tmp_path, progress=True)
    assert found.table.num_rows == len(NAMES)
    assert found.odd.examples["photo-unreadable"][0].startswith("half.jpg (image-")
    assert found.odd.examples["photo-without-hand"] == ["dark.png"]
    assert "no hand is found: left out: dark.png" in capsys.readouterr().err


def test_photographs_outside_the_gestures_folders_are_named(tmp_path, capsys):
    folder = folders.by_gesture(tmp_path / "a")
    (folder / "loose.jpg").write_bytes(draw_jpeg(60, 80))
    found = made(folder, tmp_path, progress=True)
    assert found.table.num_rows == len(NAMES) and found.odd.counts["photo-of-other-gesture"] == 2
    assert "or of another gesture: left out: fist/9999.jpg, loose.jpg" in capsys.readouterr().err


def test_a_folder_without_hands_or_photographs_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no photographs"):
        made(tmp_path / "empty", tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "empty" / "dark.png")
    with pytest.raises(UserError, match="no hand is found in any of its 1 photographs"):
        made(tmp_path / "empty", tmp_path)


def test_one_photograph_is_for_training_and_its_largest_hand_is_taken(tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a 12:30.jpg").write_bytes(draw_jpeg(0, 80))  # a name that no manifest holds is copied
    table = made(tmp_path / "one", tmp_path, progress=True).table
    assert table["split"].to_pylist() == ["train"] and table["labels"].to_pylist() == [["vulcan"]]
    said = capsys.readouterr().err
    assert "fewer than 4 photographs" in said and "validation and test are empty" in said


def test_texts_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "HandFinder", None)
    folder = plain(tmp_path / "a")
    with pytest.raises(UserError, match=r"the text of ann/0000.jpg cannot be kept, since the exact words .*vulcan"):
        made(folder, tmp_path, "final")
    (folder / "joe" / "0007.txt").write_text("wall " * 90)
    with pytest.raises(UserError, match=r"the caption of joe/0007.jpg has 92 CLIP tokens, and the limit is 77"):
        made(folder, tmp_path, "caption")
    (folder / "joe" / "0007.txt").unlink()
    with pytest.raises(UserError, match=r"joe/0007.jpg of 8 photographs have no caption"):
        made(folder, tmp_path, "caption")


def test_folders_of_other_gestures_are_not_taken_for_persons(tmp_path):
    (tmp_path / "a" / "fist").mkdir(parents=True)
    (tmp_path / "a" / "fist" / "1.jpg").write_bytes(draw_jpeg(0))
    with pytest.raises(UserError, match="has the folder fist/ of another gesture"):
        made(tmp_path / "a", tmp_path)
    with pytest.raises(UserError, match="has no folder vulcan/ or call/"):
        made(plain(tmp_path / "b"), tmp_path, gestures=("vulcan", "call"))


def numbered(folder, name, values):
    """Write an `imagefolder` whose metadata.jsonl has these values in a column."""
    folder = folders.metadata_jsonl(folder)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines = [{**line, "subject": None, name: value} for line, value in zip(lines, values, strict=True)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("name", ["subject", "user_id"])
def test_persons_may_be_numbers(name, tmp_path):
    persons = [row["subject"] for row in rows(numbered(tmp_path / "a", name, [0, 0, 0, 0, 1, 1, 1, 1]), tmp_path)]
    assert len(set(persons)) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("subject", True), ("user_id", 1.5), ("person", {"id": 1}), ("gesture", 3)]
)
def test_a_person_or_gesture_of_another_type_is_refused(name, value, tmp_path):
    folder = numbered(tmp_path / "a", name, [value] * len(NAMES))
    with pytest.raises(UserError, match=rf"'{name}' of images/0000.jpg is .*, not text"):
        made(folder, tmp_path)


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/passwd", "missing.jpg"])
def test_metadata_names_only_files_of_its_folder(name, tmp_path):
    folder = folders.metadata_jsonl(tmp_path / "a")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name}) + "\n")
    with pytest.raises(UserError, match=r"metadata.jsonl, row 1"):
        made(folder, tmp_path)


def test_a_csv_with_an_overlong_field_is_one_sentence(tmp_path):
    folder = folders.metadata_csv(tmp_path / "a")
    with (folder / "metadata.csv").open("a") as file:
        file.write(f"\nimages/0000.jpg,{'x' * 140_000},ann\n")
    with pytest.raises(UserError, match=r"metadata.csv cannot be read as CSV \(field larger than field limit"):
        made(folder, tmp_path)


def test_heic_without_its_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match=r"IMG_1.HEIC .*pip install 'hand1000\[heif\]'"):
        made(tmp_path / "a", tmp_path)


def test_measurements_are_kept_and_damaged_ones_made_again(tmp_path, monkeypatch):
    folder = plain(tmp_path / "a")
    expected = rows(folder, tmp_path)
    monkeypatch.setattr(measure, "HandFinder", None)
    assert rows(folder, tmp_path) == expected
    stored = tmp_path / "source" / "photos.parquet"
    stored.write_bytes(stored.read_bytes()[:-9])
    monkeypatch.setattr(measure, "HandFinder", Finder)
    assert rows(folder, tmp_path) == expected
