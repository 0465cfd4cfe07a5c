"""Fault C3: half a download is not taken as whole, and a damaged cache counts as absent."""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handdata.errors import Unfinished, UserError
from handdata.recipe import FetchOptions
from handdata.rows.manifest import read_manifest
from handdata.sources.download import download_all
from handdata.sources.http import Client
from handdata.sources.places import Archive, Sources
from handdata.stages import select
from tests.faults.archives import QUIET, fetched, images, recipe_of, served, started
from tests.faults.hostile import hostile_server
from tests.range_server import serve


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


def downloaded(url: str, folder: Path) -> bytes:
    """Return the bytes of a whole download."""
    client = Client(FetchOptions(attempts=4, backoff=0.01, timeout=1))
    try:
        archive = Archive((f"{url}/images.zip",))
        local = download_all(Sources(archive, ()), folder, client)
        return Path(local.annotations.places[0]).read_bytes()
    finally:
        client.close()


def early(whole: bytes, times: int, stated: bool, ranges: bool) -> Callable[[bytes], Iterator[bytes]]:
    """Return a server's answers: the first so many end at half of what is missing."""
    left = [times]

    def answering(request: bytes) -> Iterator[bytes]:
        match = re.search(rb"[Rr]ange: bytes=(\d+)-", request)
        start = int(match[1]) if match and ranges else 0
        body = whole[start:]
        head = b"HTTP/1.1 206 P\r\nContent-Range: bytes %d-%d/%d" % (start, len(whole) - 1, len(whole))
        head = head if match and ranges else b"HTTP/1.1 200 OK"
        if left[0] > 0:
            left[0] -= 1
            body = body[: len(body) // 2]
        length = b"\r\nContent-Length: %d" % len(body) if stated else b""
        yield head + length + b'\r\nETag: "1"\r\nConnection: close\r\n\r\n' + body

    return answering


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("ranges", [False, True])
def test_c3_a_server_that_hangs_up_early_is_asked_again(tmp_path, stated, ranges):
    served(tmp_path)
    whole = (tmp_path / "images.zip").read_bytes()
    with hostile_server(early(whole, 1 if stated else 2, stated, ranges)) as url:
        assert downloaded(url, tmp_path / "local") == whole
    assert [path.suffix for path in (tmp_path / "local").iterdir()] == [".zip"]


def test_c3_a_server_that_always_hangs_up_early_ends_with_a_sentence(tmp_path):
    served(tmp_path)
    whole = (tmp_path / "images.zip").read_bytes()
    message = "not a whole zip archive"
    with hostile_server(early(whole, 99, False, False)) as url, pytest.raises(Unfinished, match=message):
        downloaded(url, tmp_path / "local")
    with hostile_server(early(whole, 99, True, False)) as url, pytest.raises(UserError, match=message):
        downloaded(url, tmp_path / "other")


def test_c3_half_an_archive_of_an_earlier_version_is_downloaded_again(tmp_path):
    served(tmp_path / "served")
    with serve(tmp_path / "served", ranges=False) as server:
        build = started(tmp_path, server.url("annotations.zip"), server.url("images.zip"), whole=True)
        fetched(build)
        for path in (build / "source").glob("*.zip"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        (build / "manifest.parquet").unlink()
        for path in (build / "images").glob("*/*.jpg"):
            path.unlink()
        assert not fetched(build).failed and len(images(build)) == 14


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "one bit": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "flips": lambda data: bytes(b ^ (random.Random(i).random() < 0.001) for i, b in enumerate(data)),
    "text": lambda data: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["directory", "parquet"])
def test_c3_a_damaged_cache_of_an_index_or_annotations_is_read_again(tmp_path, damage, kind):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = started(tmp_path, server.url("annotations.zip"), server.url("images.zip"))
        select.run(build, recipe_of(build), QUIET)
        before = read_manifest(build)
        damaged = list((tmp_path / "cache").rglob(f"*.{kind}"))
        assert damaged
        for path in damaged:
            path.write_bytes(DAMAGES[damage](path.read_bytes()))
        (build / "manifest.parquet").unlink()
        select.run(build, recipe_of(build), QUIET)
        assert read_manifest(build).equals(before)
        requests = len(server.log)
        (build / "manifest.parquet").unlink()
        select.run(build, recipe_of(build), QUIET)
        assert len(server.log) - requests <= 4, "the cache is whole again"
