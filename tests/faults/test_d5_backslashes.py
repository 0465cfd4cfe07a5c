"""Fault D5: names with backslashes for separators, as PowerShell 5 and .NET 4 write them."""

import io
import zipfile
from pathlib import Path

import pytest

from handdata.rows.manifest import read_manifest
from handdata.sources.archive import LocalFile, entries, find, payload, read_directory, with_slashes
from handdata.stages import fetch, select
from tests.faults.archives import QUIET, fetched, images, recipe_of, served, started


def renamed(path: Path, change) -> None:
    """Write an archive again with other names, the bytes of the members unchanged."""
    output = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            made = zipfile.ZipInfo("x")
            made.filename = change(info.filename)
            new.writestr(made, old.read(info))
    path.write_bytes(output.getvalue())


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    served(tmp_path / "a")
    return started(tmp_path, str(tmp_path / "a" / "annotations.zip"), str(tmp_path / "a" / "images.zip"))


@pytest.mark.parametrize("prefix", ["", "grüße\\", "a b\\.\\"])
def test_d5_annotations_and_images_with_backslashes_are_found(tmp_path, build, prefix):
    for name in ("annotations.zip", "images.zip"):
        renamed(tmp_path / "a" / name, lambda member: prefix + member.replace("/", "\\"))
    assert not fetched(build).failed and len(images(build)) == 14
    assert not any("\\" in member for member in read_manifest(build)["member"].to_pylist())


@pytest.mark.parametrize("prefix", ["..\\..\\", "C:\\", "\\", "a\\..\\..\\"])
def test_d5_a_backslash_leads_out_of_no_archive(tmp_path, build, prefix):
    renamed(tmp_path / "a" / "images.zip", lambda member: prefix + member.replace("/", "\\"))
    select.run(build, recipe_of(build), QUIET)
    report = fetch.run(build, recipe_of(build), QUIET)
    assert report.failed == {"unsafe-name": 14} and not images(build)


def test_d5_a_backslash_in_a_name_with_slashes_stays(tmp_path):
    assert with_slashes(b"a/b\\c.jpg") == b"a/b\\c.jpg" and with_slashes(b"a\\b\\c.jpg") == b"a/b/c.jpg"
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as zipped:
        zipped.writestr("call/odd\\name.jpg", b"x")
    directory = read_directory(LocalFile(tmp_path / "z.zip"))
    (entry,) = entries(directory)
    assert entry.name == "call/odd\\name.jpg" and list(find(directory, {b"name": 1})) == []
    data = (tmp_path / "z.zip").read_bytes()
    assert bytes(payload(entry, data, lambda start, size: data[start : start + size])) == b"x"
