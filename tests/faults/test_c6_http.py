"""Fault C6: no request lasts for ever, whatever a server sends, and no body fills the memory or the disk."""

import gzip
import time
from collections.abc import Callable, Iterator

import pytest

from handdata import assets
from handdata.errors import Unfinished, UserError
from handdata.recipe import FetchOptions
from handdata.sources.download import download_all
from handdata.sources.http import Client
from handdata.sources.places import Archive, Sources
from handdata.texts.chat import Answer, Ask
from handdata.texts.openai_server import ServerModel
from handdata.web.client import Deadline, Refused, TransientError, exchange, open_client
from tests.faults.hostile import hostile_server

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
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


def asked(url: str, timeout: float = 0.4) -> list[Answer]:
    model = ServerModel(f"{url}/v1", "m", "NO_SUCH_KEY", parallel=1, timeout=timeout)
    model.pause = 0.01
    try:
        return model.answer([Ask((("user", "hello"),), 0.0, 0)], 8)
    finally:
        model.close()


@pytest.mark.parametrize("kind", ["status line", "headers", "body"])
def test_c6_a_chat_server_that_drips_counts_as_too_slow(kind):
    began = time.monotonic()
    with hostile_server(drip(DRIPS[kind])) as url:
        assert [answer.stop for answer in asked(url)] == ["timeout"]
    assert time.monotonic() - began < 5


BOMB = gzip.compress(bytes(64 << 20))
ANSWERS = {
    "gzip bomb": HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB,
    "large": HEAD + b"Content-Length: %d\r\n\r\n" % (2 << 20) + b" " * (2 << 20),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_c6_an_answer_of_a_chat_server_has_a_cap(kind):
    with hostile_server(lambda request: iter([ANSWERS[kind]])) as url, pytest.raises((Unfinished, UserError)):
        asked(url, timeout=5)


@pytest.mark.parametrize("label", [b"gzip", b"deflate", b"br"])
def test_c6_a_wrong_label_of_compression_is_ignored_by_the_chat_client(label):
    body = b'{"choices": [{"message": {"content": "a hand"}, "finish_reason": "stop"}]}'
    answer = HEAD + b"Content-Encoding: " + label + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    packed = gzip.compress(body)
    right = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    for sent in (answer, right):
        with hostile_server(lambda request, sent=sent: iter([sent])) as url:
            assert asked(url, timeout=5)[0].text == "a hand"


def test_c6_redirects_in_a_circle_end():
    loop = b"HTTP/1.1 302 F\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    client = Client(QUICK)
    with hostile_server(lambda request: iter([loop])) as url, pytest.raises(Refused, match="redirects more than"):
        client.open(url)
    client.close()
