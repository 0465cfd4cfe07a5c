"""Fault D8: an outage while an archive is opened ends with exit code 1, a refusal with 2."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handdata.errors import Unfinished, UserError
from tests.faults.archives import fetched, served, started
from tests.faults.hostile import hostile_server
from tests.range_server import serve


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


def status(code: int) -> list[bytes]:
    return [b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % code]


def reset(request: bytes) -> Iterator[bytes]:
    yield b"HTTP/1.1 206 P\r\nContent-Le"


@pytest.mark.parametrize("role", ["annotations", "images"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_d8_a_server_that_is_down_is_an_outage(tmp_path, code, role, whole):
    with hostile_server(lambda request: iter(status(code))) as url, pytest.raises(Unfinished, match=f"HTTP {code}"):
        fetched(build_with(tmp_path, f"{url}/x.zip", role, whole))


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 410, 451])
@pytest.mark.parametrize("whole", [False, True])
def test_d8_a_refusal_is_a_mistake_of_the_recipe(tmp_path, code, whole):
    with hostile_server(lambda request: iter(status(code))) as url, pytest.raises(UserError, match=f"HTTP {code}"):
        fetched(build_with(tmp_path, f"{url}/x.zip", "images", whole))


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/x.zip", "http://no-such-host.invalid/x.zip"])
def test_d8_a_refused_connection_and_an_unknown_host_are_outages(tmp_path, place):
    with pytest.raises(Unfinished, match="run the same command again"):
        fetched(build_with(tmp_path, place, "images", False))


def test_d8_a_connection_that_breaks_off_is_an_outage(tmp_path):
    with hostile_server(reset) as url, pytest.raises(Unfinished):
        fetched(build_with(tmp_path, f"{url}/x.zip", "annotations", False))


def test_d8_one_place_that_is_down_among_missing_ones_is_an_outage(tmp_path):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        places = [server.url("gone.zip"), "http://127.0.0.1:9/x.zip", str(tmp_path / "missing.zip")]
        with pytest.raises(Unfinished):
            fetched(started(tmp_path, server.url("annotations.zip"), places))
        with pytest.raises(UserError):
            fetched(started(tmp_path, server.url("annotations.zip"), [places[0], places[2]]))


def test_d8_the_command_ends_with_exit_code_1(tmp_path):
    with hostile_server(lambda request: iter(status(503))) as url:
        build = build_with(tmp_path, f"{url}/x.zip", "images", False)
        command = [sys.executable, "-m", "handdata", "select", str(build)]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "HTTP 503" in done.stderr and "Traceback" not in done.stderr


def build_with(tmp_path: Path, place: str, role: str, whole: bool) -> Path:
    """Start a build with one place that is tried, and everything else in local files."""
    served(tmp_path / "a")
    places = {name: str(tmp_path / "a" / f"{name}.zip") for name in ("annotations", "images")} | {role: place}
    return started(tmp_path, places["annotations"], places["images"], whole=whole)
