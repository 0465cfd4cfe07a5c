"""Ranged HTTP against a real server that misbehaves in every way of the range server."""

import random
import time
import zipfile

import pytest

from handdata.recipe import FetchOptions
from handdata.sources.http import PIECE, Client, NoRanges, Replaced, address
from handdata.web.client import Refused, TransientError
from tests.range_server import FAULTS, serve

QUICK = FetchOptions(backoff=0.01, timeout=0.5)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file.zip").write_bytes(random.Random(0).randbytes(300_000))
    return tmp_path


@pytest.fixture
def client():
    client = Client(QUICK)
    yield client
    client.close()


def whole(folder) -> bytes:
    return (folder / "file.zip").read_bytes()


def test_opening_learns_length_and_etag_and_parts_are_the_bytes_of_the_file(folder, client):
    with serve(folder) as server:
        file = client.open(server.url("file.zip"))
        assert (file.length, file.identity) == (300_000, '"1-300000"')
        assert file.read(1000, 5000) == whole(folder)[1000:6000]
        assert server.log[-1].headers["If-Range"] == '"1-300000"'


def test_a_large_part_is_read_in_pieces(folder, client):
    data = random.Random(1).randbytes(2 * PIECE + 5)
    (folder / "large.zip").write_bytes(data)
    with serve(folder) as server:
        file = client.open(server.url("large.zip"))
        assert file.read(3, 2 * PIECE) == data[3 : 3 + 2 * PIECE]
        assert len(server.parts_of("large.zip")) == 3


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "wrong"])
def test_every_kind_of_fault_is_solved_by_another_attempt(folder, client, kind):
    with serve(folder, kinds=(kind,), stall=1.0) as server:
        file = client.open(server.url("file.zip"))
        server.first_bad = 2
        assert client.read(file, 7, 1000) == whole(folder)[7:1007]
        assert [request.fault for request in server.log[1:]] == [kind, kind, None]


def test_after_all_attempts_the_last_error_is_raised(folder, client):
    with serve(folder, faults=1.0, kinds=("503",)) as server:
        with pytest.raises(TransientError, match="HTTP 503, 8 times"):
            client.open(server.url("file.zip"))
        assert len(server.log) == 8


def test_the_client_waits_as_long_as_the_server_requests(folder, client):
    with serve(folder, kinds=("429",), retry_after="1") as server:
        file = client.open(server.url("file.zip"))
        server.first_bad = 1
        began = time.monotonic()
        client.read(file, 0, 10)
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize("weak", [False, True])
def test_a_replaced_file_is_noticed_with_strong_and_weak_etags(folder, client, weak):
    with serve(folder, weak=weak) as server:
        file = client.open(server.url("file.zip"))
        server.version = "2"
        with pytest.raises(Replaced, match=r'it was replaced .*ETag .*"2-300000"'):
            client.read(file, 0, 10)
        assert ("If-Range" in server.log[-1].headers) is not weak


def test_a_shorter_file_in_its_place_is_noticed(folder, client):
    with serve(folder) as server:
        file = client.open(server.url("file.zip"))
        (folder / "file.zip").write_bytes(b"PK" + bytes(1000))
        with pytest.raises(Replaced):
            client.read(file, 200_000, 10)


def test_a_host_without_range_support_is_reported_at_once_and_the_whole_file_is_not_read(folder, client):
    with zipfile.ZipFile(folder / "real.zip", "w") as zipped:
        zipped.writestr("a", bytes(3_000_000))
    with serve(folder, ranges=False) as server:
        with pytest.raises(NoRanges, match=r"--source\.whole"):
            client.open(server.url("real.zip"))
        assert len(server.log) == 1


def test_a_missing_file_is_refused_without_another_attempt(folder, client):
    with serve(folder) as server:
        with pytest.raises(Refused, match="HTTP 404"):
            client.open(server.url("nothing.zip"))
        assert len(server.log) == 1


def test_a_dead_host_is_a_transient_error(client):
    with pytest.raises(TransientError, match="8 times"):
        client.open("http://127.0.0.1:9/file.zip")


def test_a_hub_address_is_huggingface_hubs_with_the_users_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    url, headers = address("hf://datasets/someone/hands@v1/archive/images.zip")
    assert url.endswith("/datasets/someone/hands/resolve/v1/archive/images.zip")
    assert headers["Authorization"] == "Bearer hf_secret"
    assert address("https://example.org/a.zip") == ("https://example.org/a.zip", {})


def test_a_token_does_not_follow_a_redirect_and_the_redirect_is_requested_once(folder, client, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (folder / "cdn").mkdir()
    (folder / "cdn" / "file.zip").write_bytes(whole(folder))
    with serve(folder / "cdn") as cdn, serve(folder) as hub:
        path = "datasets/someone/hands/resolve/main/file.zip"
        hub.redirects[path] = cdn.url("file.zip")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url("").rstrip("/"))
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url("{repo_id}/resolve/{revision}/{filename}"),
        )
        file = client.open("hf://datasets/someone/hands/file.zip")
        assert file.read(5, 100) == whole(folder)[5:105]
        assert [request.path for request in hub.log] == [path], "the signed address is kept"
        assert hub.log[0].headers["Authorization"] == "Bearer hf_secret"
        assert all("authorization" not in map(str.lower, request.headers) for request in cdn.log)
        assert len(cdn.log) == 2
