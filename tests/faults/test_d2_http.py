"""Fault D2, HTTP answers and addresses: whatever a server sends, the end is the right bytes or a sentence."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from handdata.builds.folder import BuildFolder
from handdata.errors import Unfinished, UserError
from handdata.recipe import FetchOptions, SourceOptions
from handdata.sources.http import Client, RemoteFile
from handdata.sources.places import resolve
from handdata.web.client import Refused, TransientError
from handdata.web.urls import require_url
from tests.faults.archives import QUICK, fetched, holding, images, recipe_of, served, started
from tests.faults.hostile import NUMBERS, TARGETS, WORDS, answer, hostile_server

WHOLE = b"PK" + bytes(70_000)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1", "http://[fe80::1%eth0/x", "https://" + "a" * 300 + ".org/x", "https://" + "a." * 200 + "org/x",
        "https://host:70000/x", "https://host:0/x", "https://host:-1/x", "https://host:8o/x", "http:///x", "https://",
        "http://a..b/x", "https://host/a b", "https://host/\nHost: evil", "https://ho\tst/x", "https://h\ud800/x",
        "https://host\0/x", "https://host%00/x", "https://\u00e9" + "\u00e9" * 70 + ".org/x",
    ],
)  # fmt: skip
def test_d2_an_address_that_cannot_be_requested_is_refused_in_the_recipe(url):
    for place in (url, url.replace("://", "://user:s3cret@", 1)):
        options = SourceOptions(annotations=("a.zip",), images=(place,))
        with pytest.raises(UserError, match="is not a valid URL") as raised:
            resolve(options, ("call",), Path("/"))
        assert "s3cret" not in str(raised.value)
        str(raised.value).encode()


@pytest.mark.parametrize(
    "url", ["http://[::1]:80/x", "https://m\u00fcnchen.de/x", "http://127.0.0.1:8000/x?a=b c".replace(" ", "+")]
)
def test_d2_addresses_of_every_valid_form_are_accepted(url):
    require_url(url)


def part(headers: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 206 P\r\n" + headers + b"Connection: close\r\n\r\n" + body


RANGES = (
    "bytes 4462-70001/\xb2", "bytes 4462-\xb9/70002", "bytes -1-2/3", "bytes 0-1", "bytes 0-1/*", "bytes */70002",
    "bytes 4462-70001/" + "9" * 400, "bytes 70001-4462/70002", "chunks 1-2/3", "", "bytes 4462-70001/70001",
)  # fmt: skip


@pytest.mark.parametrize("stated", RANGES)
def test_d2_a_content_range_that_is_none_is_another_attempt(stated):
    sent = part(b"Content-Range: " + stated.encode("latin-1") + b"\r\n", WHOLE[-65_540:])
    client = Client(FetchOptions(attempts=2, backoff=0.0, timeout=1))
    with hostile_server(lambda request: iter([sent])) as url, pytest.raises(TransientError) as raised:
        client.open(url)
    client.close()
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("etag", [b'"\xe9t\xe9"', b"\xff\xfe", b'W/"x"', b"x" * 2000, b'"a" "b"', b"\xc2\xb2"])
def test_d2_an_etag_of_any_bytes_is_an_identity(etag):
    def answering(request: bytes) -> Iterator[bytes]:
        found = request.lower().partition(b"range: bytes=")[2].partition(b"\r")[0]
        low, _, high = found.partition(b"-")
        start = int(low) if low else len(WHOLE) - int(high)
        end = int(high) if low and high else len(WHOLE) - 1
        body = WHOLE[start : end + 1]
        yield part(b"ETag: %s\r\nContent-Range: bytes %d-%d/%d\r\n" % (etag, start, end, len(WHOLE)), body)

    client = Client(FetchOptions(attempts=2, backoff=0.0, timeout=1))
    with hostile_server(answering) as url:
        file = client.open(url)
        assert file.read(0, 10) == WHOLE[:10] and file.identity
    client.close()


@pytest.mark.parametrize("target", TARGETS)
def test_d2_a_redirect_to_nonsense_is_refused_or_transient(target):
    sent = b"HTTP/1.1 302 F\r\nLocation: " + target + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    client = Client(FetchOptions(attempts=2, backoff=0.0, timeout=1))
    with hostile_server(lambda request: iter([sent])) as url, pytest.raises((Refused, TransientError)) as raised:
        client.read(RemoteFile(url, client), 0, 10)
    client.close()
    assert "secret" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize("wait", [*NUMBERS, *WORDS])
def test_d2_a_retry_after_of_any_bytes_is_a_number_of_seconds(wait):
    sent = b"HTTP/1.1 503 S\r\nRetry-After: " + wait + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    client = Client(FetchOptions(attempts=1, backoff=0.0, timeout=1))
    client.stopped.set()  # without waiting
    with hostile_server(lambda request: iter([sent])) as url, pytest.raises(TransientError):
        client.open(url)
    client.close()


def seeded(tmp_path: Path, seeds: range) -> set[str]:
    """Build from a server of which some answers are hostile; every finished build has the right images."""
    world = served(tmp_path / "served")
    chance = random.Random(0)
    share = 0.5
    whole = {name: (tmp_path / "served" / name).read_bytes() for name in ("annotations.zip", "images.zip")}

    def answering(request: bytes) -> Iterator[bytes]:
        data = whole["annotations.zip" if b"annotations" in request.split(b"\r\n")[0] else "images.zip"]
        good = type("Good", (random.Random,), {"choice": lambda self, values: values[1], "random": lambda self: 0.5})
        yield answer(request, data, chance if chance.random() < share else good())

    outcomes = set()
    with hostile_server(answering) as url:
        for seed in seeds:
            chance.seed(seed)
            share = chance.choice((0.1, 0.4, 0.9))
            for path in (tmp_path / "build", tmp_path / "cache"):
                shutil.rmtree(path, ignore_errors=True)
            secret = url.replace("//", "//u:s3cret@")
            build = started(tmp_path, f"{url}/annotations.zip?sig=s3cret", f"{secret}/images.zip", whole=seed % 3 == 0)
            recipe = BuildFolder(build, recipe_of(build)).recipe
            try:
                fetched(build, recipe)
                assert set(images(build)) == {name for _, name in world.images}
                outcomes.add("images")
            except (UserError, Unfinished) as error:
                assert "s3cret" not in str(error)
                outcomes.add(type(error).__name__)
            assert holding(build, b"s3cret") == ["recipe.toml"]
    return outcomes


def test_d2_thirty_builds_with_hostile_answers_end_in_all_images_or_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(QUICK, "timeout", 0.3)
    assert len(seeded(tmp_path, range(30))) > 1


@pytest.mark.slow
def test_d2_five_hundred_builds_with_hostile_answers_end_in_all_images_or_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(QUICK, "timeout", 0.3)
    assert len(seeded(tmp_path, range(30, 530))) == 3
