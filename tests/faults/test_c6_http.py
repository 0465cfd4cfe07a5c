"""Fault C6: no request lasts for ever, whatever a server sends, and no body fills the memory or the disk."""

import time
from collections.abc import Callable, Iterator

import pytest

from handdata import assets
from handdata.errors import Unfinished, UserError
from handdata.recipe import FetchOptions
from handdata.sources.download import download_all
from handdata.sources.http import Client
from handdata.sources.places import Archive, Sources
from handdata.web.client import Deadline, Refused, TransientError, exchange, open_client
from tests.faults.hostile import hostile_server

QUICK = FetchOptions(attempts=2, backoff=0.01, timeout=0.4)


def drip(head: bytes, every: float = 0.05) -> Callable[[bytes], Iterator[bytes]]:
    """Return a server's answers: the head at once, then a byte now and then, without end."""

    def answering(request: bytes) -> Iterator[bytes]:
        yield head
        while True:
            time.sleep(every)
            yield b"x"

    return answering


DRIPS = {
    "status line": b"",
    "headers": b"HTTP/1.1 200 OK\r\nX: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\nPK",
    "part": b'HTTP/1.1 206 P\r\nContent-Range: bytes 24464-89999/90000\r\nETag: "1"\r\n\r\n',
    "error page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<",
    "redirect": b"HTTP/1.1 302 F\r\nLocation: /next\r\nContent-Length: 90000\r\n\r\n",
}


@pytest.mark.parametrize("kind", DRIPS)
def test_c6_an_archive_that_drips_ends_within_the_time_out_of_each_attempt(kind):
    client, began = Client(QUICK), time.monotonic()
    with hostile_server(drip(DRIPS[kind])) as url, pytest.raises((TransientError, Refused)):
        client.open(f"{url}/x.zip")
    client.close()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", DRIPS)
def test_c6_a_whole_download_that_drips_ends(kind, tmp_path):
    client, began = Client(QUICK), time.monotonic()
    with hostile_server(drip(DRIPS[kind])) as url, pytest.raises((Unfinished, UserError)):
        download_all(Sources(Archive((f"{url}/x.zip",)), ()), tmp_path, client)
    client.close()
    assert time.monotonic() - began < 5


def test_c6_a_slow_but_steady_answer_is_read_to_its_end():
    def answering(request: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"
        for _ in range(12):
            time.sleep(0.1)
            yield bytes(5000)

    client = open_client(0.5, 1)
    with hostile_server(answering) as url, exchange(client, {"method": "GET", "url": url}, Deadline(0.5)) as response:
        assert len(b"".join(response.iter_raw())) == 60_000
    client.close()


@pytest.mark.parametrize("kind", ["headers", "body"])
def test_c6_a_model_file_that_drips_names_its_source(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path))
    monkeypatch.setattr(assets, "_TIMEOUT", 0.4)
    with hostile_server(drip(DRIPS[kind])) as url:
        asset = assets.Asset("x.bin", "x", "0" * 64, "CC0", (f"{url}/x.bin?sig=s3cret",), default=True, bytes=90_000)
        with pytest.raises(Unfinished, match="no answer in"):
            assets.fetch("x", asset)
    assert not list(tmp_path.iterdir())


def test_c6_a_model_file_without_end_is_cut_at_its_size(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path))

    def answering(request: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n"
        while True:
            yield bytes(1 << 16)

    with hostile_server(answering) as url:
        asset = assets.Asset("x.bin", "x", "0" * 64, "CC0", (f"{url}/x.bin",), default=True, bytes=1 << 20)
        with pytest.raises(Unfinished, match="more than 1,048,576 bytes"):
            assets.fetch("x", asset)


def test_c6_redirects_in_a_circle_end():
    loop = b"HTTP/1.1 302 F\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    client = Client(QUICK)
    with hostile_server(lambda request: iter([loop])) as url, pytest.raises(Refused, match="redirects more than"):
        client.open(url)
    client.close()
