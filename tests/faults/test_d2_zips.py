"""Fault D2, zip structures that lie: a reason for the row, or one sentence."""

import random
import struct
import zipfile
from pathlib import Path

import pytest

from handdata.errors import Unfinished, UserError
from handdata.rows.schema import REASONS
from handdata.sources.archive import BadArchive, LocalFile, entries, locate, read_directory
from tests.faults.archives import fetched, images, recipe_of, served, started
from tests.faults.hostile import LIES64, damaged_zip, with_zip64


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    served(tmp_path / "a")
    return started(tmp_path, str(tmp_path / "a" / "annotations.zip"), str(tmp_path / "a" / "images.zip"))


def outcome(build: Path) -> str:
    """Return how a build's first two stages ended; anything but rows, reasons and sentences is raised."""
    try:
        report = fetched(build)
    except UserError:
        return "user"
    except Unfinished:
        return "unfinished"
    assert set(report.failed) <= set(REASONS)
    return "rows"


@pytest.mark.parametrize("value", LIES64)
@pytest.mark.parametrize("field", [0, 1, 2])
def test_d2_a_zip64_field_that_lies_fails_its_row_alone(tmp_path, build, field, value):
    path = tmp_path / "a" / "images.zip"
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        entry, start = file.infolist()[3], file.start_dir
    at = data.find(entry.filename.encode(), start) - 46
    words = [entry.file_size, entry.compress_size, entry.header_offset]
    words[field] = value
    extra = struct.pack("<HH3Q", 1, 24, *words)
    name_end = at + 46 + len(entry.filename)
    struct.pack_into("<II", data, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", data, at + 30, len(extra))
    struct.pack_into("<I", data, at + 42, 0xFFFFFFFF)
    data[name_end:name_end] = extra
    end = data.rfind(b"PK\5\6")
    struct.pack_into("<I", data, end + 12, struct.unpack_from("<I", data, end + 12)[0] + len(extra))
    path.write_bytes(data)
    assert outcome(build) == "rows"
    assert len(images(build)) >= 13


@pytest.mark.parametrize("stated", [1, 7, 16, 0x7FFF, 0xFFFF])
def test_d2_a_zip64_field_shorter_than_it_states_is_read_as_far_as_it_goes(tmp_path, stated):
    data = with_zip64(served_bytes(tmp_path), random.Random(5))
    at = 0
    changed = bytearray(data)
    while (at := changed.find(b"\1\0\x18\0", at + 1)) >= 0:
        struct.pack_into("<H", changed, at + 2, stated)
    (tmp_path / "z.zip").write_bytes(changed)
    assert len(list(entries(read_directory(LocalFile(tmp_path / "z.zip"))))) == 14


@pytest.mark.parametrize("value", LIES64)
def test_d2_an_end_record_at_an_impossible_offset_is_a_bad_archive(tmp_path, value):
    data = bytearray(with_zip64(served_bytes(tmp_path), random.Random(1)))
    at = data.rfind(b"PK\6\6")
    for field in (40, 48):
        changed = bytearray(data)
        struct.pack_into("<Q", changed, at + field, value)
        (tmp_path / "z.zip").write_bytes(changed)
        try:
            start, size, _ = locate(LocalFile(tmp_path / "z.zip"))
            assert start >= 0 and start + size <= len(changed)
        except BadArchive:
            continue


def served_bytes(folder: Path) -> bytes:
    served(folder / "served")
    return (folder / "served" / "images.zip").read_bytes()


def seeded(build: Path, seeds: range) -> set[str]:
    folder = Path(recipe_of(build).source.images[0]).parent
    whole = {name: (folder / name).read_bytes() for name in ("images.zip", "annotations.zip")}
    outcomes = set()
    for seed in seeds:
        chance = random.Random(seed)
        name = "images.zip" if chance.random() < 0.7 else "annotations.zip"
        data = with_zip64(whole[name], chance) if chance.random() < 0.4 else whole[name]
        (folder / name).write_bytes(damaged_zip(data, chance))
        for path in (build / "manifest.parquet", *(build / "images").glob("*/*.jpg")):
            path.unlink(missing_ok=True)
        outcomes.add(outcome(build))
        (folder / name).write_bytes(whole[name])
    return outcomes


def test_d2_forty_archives_with_damaged_structures_end_in_rows_or_a_sentence(build):
    assert seeded(build, range(40)) == {"rows", "user"}


@pytest.mark.slow
def test_d2_six_hundred_archives_with_damaged_structures_end_in_rows_or_a_sentence(build):
    assert seeded(build, range(40, 640)) >= {"rows", "user"}
