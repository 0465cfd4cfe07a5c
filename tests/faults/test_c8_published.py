"""Fault C8: the manifest of a published dataset can be fetched, and holds public URLs only."""

import shutil

import pyarrow.parquet as pq
import pytest

from handdata.builds.folder import BuildFolder
from handdata.errors import UserError
from handdata.rows.manifest import SOURCES, public_metadata, read_manifest, source_facts
from handdata.rows.publication import Choice
from handdata.stages import assemble, fetch
from tests.faults.archives import QUIET, fetched, images, served, started
from tests.range_server import serve


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


def published(build, path):
    """Write the manifest that a dataset of all images of a build publishes."""
    rows = read_manifest(build).num_rows
    choice = Choice(("call", "ok"), rows={("call", "train"): list(range(rows))})
    pq.write_table(assemble._manifest(build, choice), path)
    return path


@pytest.mark.parametrize("whole", [False, True])
def test_c8_a_published_manifest_gives_the_same_images_elsewhere(tmp_path, whole):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = started(tmp_path, server.url("annotations.zip"), server.url("images.zip?sig=s3cret"), whole=whole)
        fetched(build)
        path = published(build, tmp_path / "manifest.parquet")
        first = images(build)
        shutil.rmtree(build)
        again = BuildFolder.from_manifest(path, tmp_path / "again", fetch={"backoff": 0.01})
        assert not fetch.run(again.path, again.recipe, QUIET).failed
        assert images(again.path) == first
        (facts,) = source_facts(pq.read_schema(path)).values()
        assert facts.places == (server.url("images.zip"),)
    assert b"s3cret" not in path.read_bytes() and str(tmp_path).encode() not in path.read_bytes()


def test_c8_mirrors_stay_and_local_places_do_not(tmp_path):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        local = str(tmp_path / "served" / "images.zip")
        build = started(
            tmp_path, server.url("annotations.zip"), [local, server.url("a/x.zip"), server.url("images.zip")]
        )
        fetched(build)
        path = published(build, tmp_path / "manifest.parquet")
        (facts,) = source_facts(pq.read_schema(path)).values()
        assert facts.places == (server.url("a/x.zip"), server.url("images.zip")) and facts.directory
        again = BuildFolder.from_manifest(path, tmp_path / "again", fetch={"backoff": 0.01})
        assert not fetch.run(again.path, again.recipe, QUIET).failed
    assert local.encode() not in path.read_bytes()


def test_c8_a_dataset_of_local_archives_says_that_it_names_no_place(tmp_path):
    served(tmp_path / "a")
    build = started(tmp_path, str(tmp_path / "a" / "annotations.zip"), str(tmp_path / "a" / "images.zip"))
    fetched(build)
    path = published(build, tmp_path / "manifest.parquet")
    assert SOURCES not in public_metadata(read_manifest(build).schema)
    with pytest.raises(UserError, match="names no place of its archives"):
        BuildFolder.from_manifest(path, tmp_path / "again")
