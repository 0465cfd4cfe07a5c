"""Whole downloads: they resume where they stopped, and fail with a sentence."""

import io
import random
import zipfile
from pathlib import Path

import pytest

from handdata.errors import Unfinished, UserError
from handdata.recipe import FetchOptions
from handdata.sources.download import download, download_all
from handdata.sources.http import Client, RemoteFile
from handdata.sources.places import Archive, Sources
from handdata.web.client import TransientError
from tests.range_server import RangeServer, serve


def archive_of(seed: int, size: int = 300_000) -> bytes:
    """Return a zip archive of exactly so many bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as zipped:
        zipped.writestr("a.jpg", random.Random(seed).randbytes(size - 108))
    return made.getvalue()


DATA = archive_of(0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.zip").write_bytes(DATA)
    return tmp_path


@pytest.fixture
def client():
    client = Client(FetchOptions(attempts=3, backoff=0.01, timeout=1))
    yield client
    client.close()


def remote(server: RangeServer, client: Client) -> RemoteFile:
    return RemoteFile(server.url("file.zip"), client)


def test_a_download_resumes_where_it_stopped(folder, client):
    with serve(folder / "served", kinds=("short",)) as server:
        server.first_bad = 2
        download(remote(server, client), folder / "copy.zip")
        assert (folder / "copy.zip").read_bytes() == DATA
        assert [request.start for request in server.log] == [0, 150_000, 225_000]


def test_another_process_resumes_too(folder, client):
    with serve(folder / "served", kinds=("short",)) as server:
        server.first_bad = 3
        with pytest.raises(TransientError):
            download(remote(server, client), folder / "copy.zip")
        download(remote(server, client), folder / "copy.zip")
        assert (folder / "copy.zip").read_bytes() == DATA
        assert server.log[-1].start == 262_500
        assert [path.name for path in folder.iterdir() if path.is_file()] == ["copy.zip"]


def test_a_file_that_was_replaced_meanwhile_is_downloaded_again(folder, client):
    with serve(folder / "served", kinds=("short",)) as server:
        server.first_bad = 3
        with pytest.raises(TransientError):
            download(remote(server, client), folder / "copy.zip")
        server.version = "2"
        (folder / "served" / "file.zip").write_bytes(archive_of(1))
        download(remote(server, client), folder / "copy.zip")
        assert (folder / "copy.zip").read_bytes() == (folder / "served" / "file.zip").read_bytes()


def test_a_host_without_range_support_is_read_from_the_start_again(folder, client):
    with serve(folder / "served", ranges=False, kinds=("short",)) as server:
        server.first_bad = 1
        download(remote(server, client), folder / "copy.zip")
        assert (folder / "copy.zip").read_bytes() == DATA


def test_an_error_page_is_not_taken_for_the_archive(folder, client):
    with serve(folder / "served", kinds=("page",)) as server:
        server.first_bad = 2
        download(remote(server, client), folder / "copy.zip")
        assert (folder / "copy.zip").read_bytes() == DATA


def test_a_disk_that_is_too_small_is_reported_before_the_download(folder, client, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with serve(folder / "served") as server, pytest.raises(Unfinished, match="the archive needs"):
        download(remote(server, client), folder / "copy.zip")


def test_the_next_place_is_used_where_one_fails_and_an_existing_file_is_kept(folder, client):
    with serve(folder / "served") as server:
        archive = Archive((server.url("nothing/file.zip"), server.url("file.zip")))
        local = download_all(Sources(archive, (archive,)), folder / "whole", client)
        assert Path(local.images[0].places[0]).read_bytes() == DATA
        assert local.images[0].name == archive.name
        requests = len(server.log)
        download_all(Sources(archive, (archive,)), folder / "whole", client)
        assert len(server.log) == requests == 2
        with pytest.raises(UserError, match=r"nothing.zip: HTTP 404"):
            missing = Archive((server.url("nothing.zip"),))
            download_all(Sources(missing, ()), folder / "whole", client)
