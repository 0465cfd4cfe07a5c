"""Resolving a recipe's source: known names, mirrors, one archive per gesture, and mistakes."""

import re
from pathlib import Path

import pytest

from handdata import recipe
from handdata.errors import UserError
from handdata.gestures import PAPER_GESTURES, gestures
from handdata.recipe import SourceOptions
from handdata.shipped import known_archives
from handdata.sources.places import Archive, names, normal_gesture, resolve, safe_member

HERE = Path("/data")


def test_the_papers_recipe_reads_the_512_px_archive_and_full_size_is_one_flag_away():
    loaded = recipe.load(recipe.find("hand1000"))
    sources = resolve(loaded.source, loaded.select.gestures, HERE)
    assert [source.gesture for source in sources.images] == [None]
    assert sources.images[0].places[0].endswith("/hagridv2_512.zip")
    assert loaded.select.gestures == PAPER_GESTURES
    assert (loaded.select.train, loaded.select.validation, loaded.select.test) == (1000, 100, 1000)
    full = SourceOptions(annotations=loaded.source.annotations, images=("hagridv2-full",))
    assert [source.gesture for source in resolve(full, PAPER_GESTURES, HERE).images] == list(PAPER_GESTURES)


def test_every_gesture_has_exactly_one_full_size_archive():
    options = SourceOptions(annotations=("hagridv2-annotations",), images=("hagridv2-full",))
    for gesture in gestures():
        (source,) = resolve(options, (gesture,), HERE).images
        (place,) = source.places
        old = "/hagrid/hagrid_dataset_new_554800/hagrid_dataset/" in place
        newer = gesture in ("one", "rock") or gesture not in V2
        assert place.endswith(f"/{gesture}.zip") and old is not newer


V2 = (
    "call dislike fist four like mute ok one palm peace peace_inverted rock stop stop_inverted three three2 two_up"
    " two_up_inverted"
).split()


def test_every_known_source_has_remote_places_with_their_protocol():
    for table in known_archives().values():
        for group in table.get("archives", [table]):
            assert all(re.match(r"(https|hf)://", place) for place in group["places"])
            assert not any("//" in place.partition("://")[2] for place in group["places"])


def test_a_folder_brings_its_own_annotations_and_paths_start_at_the_recipe():
    sources = resolve(SourceOptions(kind="folder", images=("photos",)), ("call",), HERE)
    assert sources.annotations.places == ("/data/photos",)
    assert sources.images[0].name == "photos", "no path of a machine is published"


def test_local_files_of_one_name_are_numbered_and_never_called_by_their_paths():
    places = ("/home/ann/a/images.zip", "/home/ann/b/images.zip", "/home/ann/images.zip#2", "https://host/images.zip")
    assert names(tuple(Archive((place,)) for place in places)) == [
        "images.zip", "images.zip#3", "images.zip#2", "https://host/images.zip"
    ]  # fmt: skip


def test_places_are_mirrors_and_the_first_url_names_the_source():
    options = SourceOptions(annotations=("a.zip",), images=("local/{gesture}.zip", "https://host/{gesture}.zip"))
    call, ok = resolve(options, ("call", "ok"), HERE).images
    assert call.places == ("/data/local/call.zip", "https://host/call.zip")
    assert (call.gesture, ok.gesture, ok.name) == ("call", "ok", "https://host/ok.zip")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (SourceOptions(), "lacks 'images'"),
        (SourceOptions(images=("a.zip",)), "lacks 'annotations'"),
        (SourceOptions(kind="hub", annotations=("a.zip",), images=("hf://datasets/a/b/c.zip",)), "needs hf://datasets"),
        (SourceOptions(kind="folder", images=("https://host/a.zip",)), "needs a local folder"),
        (SourceOptions(annotations=("a.zip",), images=("hagridv2-512", "b.zip")), "use that name alone"),
    ],
)
def test_mistakes_are_named(options, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(options, ("call",), HERE)


def test_other_spellings_of_a_gesture_are_hagrids_own():
    assert normal_gesture("two up inverted") == "two_up_inverted"
    assert normal_gesture("hands_heart2") == "hand_heart2"
    assert normal_gesture("train_val_call") == "call"
    assert all(normal_gesture(name) == name for name in gestures())


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "call/../../a.jpg", "C:\\a.jpg", "..\\a.jpg", "a\0.jpg"])
def test_names_that_leave_the_archive_are_unsafe(name):
    assert not safe_member(name)
    assert safe_member("HaGRIDv2_dataset_512/call/0123-45.jpg") and safe_member("call/..jpg")
