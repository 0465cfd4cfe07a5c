"""A build of photographs from folder to dataset: its texts, its card and its review, with nothing of HaGRID's."""

import hashlib
import json
import os
import shutil

import pyarrow.parquet as pq
import pytest

from handdata.builds.build import Build
from handdata.cli import COMMANDS
from handdata.cli.photos import Photos
from handdata.cli.program import main
from handdata.dataset.checksums import CHECKSUMS
from handdata.errors import UserError
from handdata.photos import measure
from handdata.photos.persons import SALT
from handdata.recipe import PhotoOptions, dump
from handdata.rows.shards import read_table, write_table
from handdata.stages import landmarks
from tests.handdata.photos.folders import NAMES, SUBJECTS, Finder, plain

PHRASE = "making vulcan salute hand gesture"


class ClosingFinder(Finder):
    """The same for the stage `landmarks`, which closes its finders itself."""

    def close(self) -> None:
        pass


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Return a finished build of photographs that came with final texts."""
    monkeypatch.setattr(measure, "HandFinder", Finder)
    monkeypatch.setattr(landmarks, "HandFinder", ClosingFinder)
    folder = plain(tmp_path / "photos")
    for name in NAMES:
        path = folder / SUBJECTS[name] / f"{name}.txt"
        path.write_text(f"a person at a wall, {PHRASE}")
    options = PhotoOptions(texts="final", license="CC-BY-4.0", credit="Ann Example")
    flags = Photos(str(folder), tmp_path / "build", ("vulcan",), (PHRASE,), options, seed=1)
    started = Build.start(flags.recipe(), flags.out)
    started.run(progress=False)
    return started


def test_a_folder_of_photographs_becomes_a_dataset_of_its_own_gesture(build):
    rows = [row for path in build.path.glob("dataset/data/vulcan/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == len(NAMES)
    assert {row["gesture_phrase"] for row in rows} == {PHRASE}
    assert all(row["text"] == row["caption"] and row["rewrite"] == "kept" for row in rows)
    assert all(row["labels"] == ["vulcan"] and row["gesture_hand"] == 0 for row in rows)
    assert all(row["landmarks_in_box"] == 1 for row in rows)


def test_neither_the_names_of_folders_nor_those_of_files_are_published(build):
    data = list(build.path.glob("dataset/data/vulcan/*.parquet"))
    for path in [*data, build.path / "dataset" / "manifest.parquet"]:
        for row in pq.read_table(path, columns=["image_id", "member"]).to_pylist():
            assert row["member"] == f"{row['image_id']}.jpg"
    assert {name.split("/")[0] for name in pq.read_table(build.path / "manifest.parquet")["member"].to_pylist()} == {
        "ann",
        "bob",
        "eve",
        "joe",
    }  # the build keeps them, since it reads the files by these names


def test_the_card_claims_nothing_of_hagrids_and_names_the_owner(build):
    card = (build.path / "dataset" / "README.md").read_text()
    croissant = json.loads((build.path / "dataset" / "croissant.json").read_text())
    assert "license: cc-by-4.0" in card and "Photographs by Ann Example: CC-BY-4.0." in card
    assert croissant["license"] == "https://creativecommons.org/licenses/by/4.0/"
    for text in (card, json.dumps(croissant)):
        assert "Kapitanov" not in text and "crowd workers" not in text and "captioner" not in text
        assert "hagrid" not in text.replace("hagrid_split", "").replace("not from HaGRID", "").lower()


def test_the_same_command_keeps_what_is_finished_and_the_review_page_knows_the_gesture(build):
    report = build.run(progress=False)
    assert report["landmarks"].made_shards == report["check"].made_shards == 0
    assert PHRASE in build.review().read_text()


def test_the_names_of_persons_depend_on_a_salt_that_the_build_keeps_and_does_not_publish(build):
    first = pq.read_table(build.path / "manifest.parquet")["subject"].to_pylist()
    salt = (build.path / "source" / "salt").read_text().strip()
    guessed = {hashlib.sha256(f"person\0{name}".encode()).hexdigest()[:16] for name in SUBJECTS.values()}
    assert len(set(first)) == 4 and not guessed & set(first)
    published = [path for path in (build.path / "dataset").rglob("*") if path.is_file()]
    assert len(salt) == 32 and not any(salt.encode() in path.read_bytes() for path in published)
    (build.path / "source" / "salt").unlink()
    assert persons_after(build, 1) == first  # from the manifest
    (build.path / "source" / "salt").write_text(salt)
    (build.path / "manifest.parquet").unlink()
    assert persons_after(build, 2) == first  # from the file


def test_a_build_from_before_the_salt_keeps_the_names_of_its_persons(build):
    path = build.path / "manifest.parquet"
    table = read_table(path)
    kept = {name: value for name, value in table.schema.metadata.items() if name != SALT}
    write_table(table.replace_schema_metadata(kept), path)
    (build.path / "source" / "salt").unlink()
    guessed = {hashlib.sha256(f"person\0{name}".encode()).hexdigest()[:16] for name in SUBJECTS.values()}
    assert set(persons_after(build, 3)) == guessed


def persons_after(build, seconds):
    """Return the persons in the manifest after a photograph was written again, so that all are selected again."""
    os.utime(build.path.parent / "photos" / "ann" / "0000.jpg", (seconds, seconds))
    build.run("select", progress=False)
    return pq.read_table(build.path / "manifest.parquet")["subject"].to_pylist()


def test_parts_that_are_joined_give_the_dataset_of_a_whole_build(build, tmp_path):
    (tmp_path / "parts" / "source").mkdir(parents=True)
    shutil.copy(build.path / "source" / "salt", tmp_path / "parts" / "source")
    for part in ("2/2", "1/2"):  # the first of them chooses the images, and has no shard of its own
        Build.start(build.recipe, tmp_path / "parts", part).run(progress=False)
    joined = Build.open(tmp_path / "parts")
    assert joined.join(progress=False).rows == len(NAMES)
    assert (joined.path / "dataset" / CHECKSUMS).read_bytes() == (build.path / "dataset" / CHECKSUMS).read_bytes()
    assert joined.record()["stages"] == build.record()["stages"]


def test_a_dropped_photograph_stays_out_when_the_photographs_are_selected_again(build):
    image_id = pq.read_table(build.path / "manifest.parquet")["image_id"][0].as_py()
    build.drop(image_id=image_id, progress=False)
    (build.path / "manifest.parquet").unlink()
    build.run(progress=False)
    assert image_id not in pq.read_table(build.path / "manifest.parquet")["image_id"].to_pylist()


def test_a_build_inside_the_folder_of_photographs_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "HandFinder", Finder)
    folder = plain(tmp_path / "photos")
    flags = Photos(str(folder), folder / "build", ("vulcan",), (PHRASE,))
    for _ in range(2):
        report = Build.start(flags.recipe(), flags.out).run("fetch", progress=False)
        assert report["select"].rows == len(NAMES) and len(list(flags.out.rglob("*.jpg"))) == len(NAMES)
    assert "selection" not in report["select"].notes, "the build's own files changed the selection"
    inside = Photos(str(folder), folder, ("vulcan",), (PHRASE,))
    with pytest.raises(UserError, match=r"is in the build folder .*: give --out a folder of its own"):
        Build.start(inside.recipe(), inside.out).run("fetch", progress=False)


def test_a_dry_run_of_photographs_names_their_place(tmp_path, capsys):
    recipe = Photos(str(tmp_path / "photos"), tmp_path / "build", ("vulcan",), (PHRASE,)).recipe()
    (tmp_path / "recipe.toml").write_text(dump(recipe))
    arguments = ["build", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "build"), "--dry-run"]
    assert main("handdata", "", COMMANDS, arguments) == 0
    assert f"all photographs of {tmp_path / 'photos'} with a hand are taken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gestures", "phrases", "fault"),
    [
        (("vulcan",), (), "--gesture vulcan is not among HaGRID's gestures: give its words, as in --phrase"),
        (("call",), (PHRASE,), "belongs to no gesture"),
        ((), (), "--gesture is empty"),
        (("vulcan",), ("",), "the phrase is up to 80"),
    ],
)
def test_gestures_and_phrases_that_do_not_fit_are_refused_at_once(gestures, phrases, fault, tmp_path):
    with pytest.raises(UserError, match=fault):
        Photos("nowhere", tmp_path / "build", gestures, phrases).recipe()


def test_the_name_of_a_gesture_is_taken_from_its_phrase(tmp_path):
    recipe = Photos("hf:someone/hands", tmp_path, ("call", "vulcan"), (PHRASE,)).recipe()
    assert recipe.gesture["vulcan"].words == ("vulcan salute",) and list(recipe.gesture) == ["vulcan"]
    assert recipe.source.images == ("hf:someone/hands",)
