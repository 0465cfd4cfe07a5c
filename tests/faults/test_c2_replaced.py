"""Fault C2: an archive that was replaced, or whose ETag alone changed, does not stop a build for ever."""

import shutil

import pytest

from handdata.builds.folder import BuildFolder
from handdata.errors import Unfinished
from handdata.recipe import FetchOptions
from handdata.rows.manifest import read_manifest
from handdata.rows.parts import Part
from handdata.sources.http import Client
from handdata.stages import Execution, fetch, select
from tests import hagrid
from tests.faults.archives import QUIET, fetched, images, recipe_of, served, started
from tests.range_server import RangeServer, serve


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


def chosen(tmp_path, server):
    build = started(tmp_path, server.url("annotations.zip"), server.url("images.zip"))
    select.run(build, recipe_of(build), QUIET)
    return build


@pytest.mark.parametrize("weak", [False, True])
def test_c2_servers_that_give_every_answer_another_etag_are_read_to_the_end(tmp_path, weak):
    served(tmp_path / "served")
    with serve(tmp_path / "served", weak=weak) as server:
        build = chosen(tmp_path, server)
        server.__class__ = type("Flapping", (RangeServer,), {"version": property(lambda self: str(len(self.log)))})
        assert not fetch.run(build, recipe_of(build), QUIET).failed
    assert len(images(build)) == 14


def test_c2_selection_reads_a_file_whose_etag_changes_between_two_parts(tmp_path):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        client = Client(FetchOptions(backoff=0.01))
        file = client.open(server.url("images.zip"))
        file.tail = file.tail[-100:]
        server.version = "2"
        assert file.read(0, 500) == (tmp_path / "served" / "images.zip").read_bytes()[:500]
        client.close()


def test_c2_another_archive_is_selected_from_by_itself_and_finished_rows_are_kept(tmp_path, capsys):
    world = served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = chosen(tmp_path, server)
        fetched(build)
        kept = images(build)
        lost = next(iter(sorted(kept)))
        for path in (build / "images").glob(f"*/{lost}.jpg"):
            path.unlink()
        world.images = dict(reversed(world.images.items()))
        key = next(key for key in world.images if key[1] != lost)
        world.images[key] = hagrid.jpeg(99)
        world.write_images(tmp_path / "served" / "images.zip")
        server.version, requests = "2", len(server.log)
        report = fetch.run(build, recipe_of(build), Execution(progress=True))
        parts = [request for request in server.log[requests:] if request.path == "images.zip" and request.status == 206]
    assert not report.failed and "selection" in report.notes
    assert set(images(build)) == set(kept)
    assert images(build)[key[1]] != kept[key[1]], "the member with another CRC is fetched again"
    assert sum(part.end - part.start for part in parts) < 3 * (tmp_path / "served" / "images.zip").stat().st_size
    assert "selected again" in capsys.readouterr().err


def test_c2_a_local_archive_that_was_copied_again_is_the_same_and_another_one_is_noticed(tmp_path):
    world = served(tmp_path / "a")
    build = started(tmp_path, str(tmp_path / "a" / "annotations.zip"), str(tmp_path / "a" / "images.zip"))
    select.run(build, recipe_of(build), QUIET)
    shutil.copy(tmp_path / "a" / "images.zip", tmp_path / "copy.zip")
    (tmp_path / "copy.zip").replace(tmp_path / "a" / "images.zip")
    assert not fetch.run(build, recipe_of(build), QUIET).failed
    for path in (build / "images").glob("*/*.jpg"):
        path.unlink()
    world.images = dict(reversed(world.images.items()))
    world.write_images(tmp_path / "a" / "images.zip")
    report = fetch.run(build, recipe_of(build), QUIET)
    assert not report.failed and len(images(build)) == 14


def test_c2_a_build_from_a_manifest_says_that_it_needs_the_new_one(tmp_path):
    world = served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        manifest = chosen(tmp_path, server) / "manifest.parquet"
        again = BuildFolder.from_manifest(manifest, tmp_path / "again", fetch={"backoff": 0.01})
        world.images = dict(reversed(world.images.items()))
        world.write_images(tmp_path / "served" / "images.zip")
        server.version = "2"
        with pytest.raises(Unfinished, match="needs the manifest of the new archive"):
            fetch.run(again.path, again.recipe, QUIET)


def test_c2_a_part_leaves_the_new_selection_to_a_run_of_the_whole_build(tmp_path):
    world = served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = chosen(tmp_path, server)
        before = (build / "manifest.parquet").read_bytes()
        world.images = dict(reversed(world.images.items()))
        world.write_images(tmp_path / "served" / "images.zip")
        server.version = "2"
        with pytest.raises(Unfinished, match=r"when no part is running, run `handdata fetch .*`, which selects"):
            fetch.run(build, recipe_of(build), Execution(progress=False, part=Part(1, 2)))
        assert (build / "manifest.parquet").read_bytes() == before
        fetch.run(build, recipe_of(build), QUIET)
        report = fetch.run(build, recipe_of(build), Execution(progress=False, part=Part(1, 2)))
    assert report.rows == 14 and not report.failed


def test_c2_a_mirror_that_kept_the_indexed_archive_is_used(tmp_path):
    world = served(tmp_path / "served")
    served(tmp_path / "mirror")
    with serve(tmp_path / "served") as server, serve(tmp_path / "mirror") as mirror:
        places = [server.url("images.zip"), mirror.url("images.zip")]
        build = started(tmp_path, server.url("annotations.zip"), places)
        select.run(build, recipe_of(build), QUIET)
        before = read_manifest(build)
        world.images = dict(reversed(world.images.items()))
        world.write_images(tmp_path / "served" / "images.zip")
        server.version = "2"
        assert not fetch.run(build, recipe_of(build), QUIET).failed
    assert read_manifest(build).equals(before) and len(images(build)) == 14
