"""The zip reader against archives that Python's zipfile writes, and against damaged ones."""

import io
import random
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handdata.sources import archive
from handdata.sources.archive import BadArchive, BadMember, Directory, Entry, LocalFile
from tests import hagrid


def opened(path: Path) -> tuple[LocalFile, Directory]:
    reader = LocalFile(path)
    start, size, shift = archive.locate(reader)
    return reader, Directory(reader.read(start, size), shift)


def content(reader: LocalFile, entry: Entry) -> bytes:
    start, end = archive.span(entry)
    data = reader.read(start, end - start)
    return archive.unpack(entry, archive.payload(entry, data, reader.read))


names = st.text(st.characters(exclude_characters="/\0\\", exclude_categories=("Cs",)), min_size=1, max_size=20)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(names, st.tuples(st.binary(max_size=300), st.booleans()), max_size=8), st.binary(max_size=50))
def test_every_member_that_zipfile_writes_is_found_and_read(tmp_path_factory, members, comment):
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.comment = comment
        for name, (data, deflated) in members.items():
            file.writestr(name, data, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    reader, directory = opened(path)
    contents = {entry.name: content(reader, entry) for entry in archive.entries(directory)}
    assert contents == {name: data for name, (data, _) in members.items()}


def test_members_written_as_a_stream_have_their_sizes_from_the_directory(tmp_path):
    class Unseekable(io.RawIOBase):
        def __init__(self, file):
            self.file = file

        def writable(self):
            return True

        def write(self, data):
            return self.file.write(data)

    with (tmp_path / "a.zip").open("wb") as raw, zipfile.ZipFile(Unseekable(raw), "w") as file:
        file.writestr("call/a.jpg", b"content", zipfile.ZIP_DEFLATED)
    reader, directory = opened(tmp_path / "a.zip")
    assert [content(reader, entry) for entry in archive.entries(directory)] == [b"content"]


def test_an_archive_after_other_bytes_is_read_at_its_place(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", b"content")
    (tmp_path / "a.zip").write_bytes(b"#!/bin/sh\n" * 50 + buffer.getvalue())
    reader, directory = opened(tmp_path / "a.zip")
    assert [content(reader, entry) for entry in archive.entries(directory)] == [b"content"]


def test_a_zip64_archive_beyond_5_gib_is_read(tmp_path):
    world = hagrid.big_archive(tmp_path / "big.zip", 20)
    reader, directory = opened(tmp_path / "big.zip")
    entries = list(archive.entries(directory))
    assert {Path(entry.name).stem for entry in entries} == set(world.records["train", "call"])
    assert min(entry.offset for entry in entries) > 5 << 30
    assert all(len(content(reader, entry)) == 110_000 for entry in entries)


def test_more_than_65535_entries_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as file:
        for number in range(66_000):
            file.writestr(zipfile.ZipInfo(f"call/{number}.jpg"), b"")
    _, directory = opened(tmp_path / "many.zip")
    hits = list(archive.find(directory, {b"0": 0, b"65999": 1, b"66000": 2}))
    assert [(value, name) for value, _, name in hits] == [(0, b"call/0.jpg"), (1, b"call/65999.jpg")]


def test_a_local_extra_field_longer_than_the_directorys_is_skipped(tmp_path):
    info = zipfile.ZipInfo("call/a.jpg")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, b"content")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<H", data, 28, 300)
    data[30 + len(info.filename) : 30 + len(info.filename)] = bytes(300)
    end = data.rfind(b"PK\5\6")
    struct.pack_into("<I", data, end + 16, struct.unpack_from("<I", data, end + 16)[0] + 300)
    (tmp_path / "a.zip").write_bytes(data)
    reader, directory = opened(tmp_path / "a.zip")
    (entry,) = archive.entries(directory)
    assert content(reader, entry) == b"content"


@pytest.mark.parametrize("change", ["cut", "page", "empty", "no-directory"])
def test_a_file_that_is_not_a_whole_archive_is_reported(tmp_path, change):
    path = hagrid.world().write_images(tmp_path / "a.zip")
    data = path.read_bytes()
    damaged = {
        "cut": data[:-30],
        "page": b"<html>not here</html>",
        "empty": b"",
        "no-directory": data[:-22] + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 9, 9, 1 << 30, 0, 0),
    }
    path.write_bytes(damaged[change])
    with pytest.raises(BadArchive):
        opened(path)


def test_a_truncated_or_damaged_directory_is_detected(tmp_path):
    _, directory = opened(hagrid.world().write_images(tmp_path / "a.zip"))
    with pytest.raises(BadArchive, match="is truncated"):
        list(archive.find(Directory(directory.data[:-1]), {}))
    broken = bytearray(directory.data)
    broken[0] = 0
    with pytest.raises(BadArchive, match="damaged at byte 0"):
        list(archive.find(Directory(bytes(broken)), {}))
    with pytest.raises(BadArchive, match="lacks 46 bytes"):
        archive.check(directory, len(directory.data) + 46)


def entry_of(data: bytes, size: int | None = None, method: int = archive.DEFLATED, packed: bytes = b"") -> Entry:
    return Entry("a", method, zlib.crc32(data), len(packed), len(data) if size is None else size, 0)


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def test_a_bomb_is_inflated_no_further_than_its_declared_size():
    data = bytes(200 << 20)
    packed = deflate(data)
    tracemalloc.start()
    with pytest.raises(BadMember, match="more than the 1,000 bytes") as raised:
        archive.unpack(entry_of(data[:1000], packed=packed), packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert raised.value.reason == "wrong-size"
    assert peak < 2_000_000


def test_scanning_a_large_directory_takes_a_moment(tmp_path):
    """A fifth of its 1.09 million entries here; the whole is measured in benchmarks/fetch.py."""
    from benchmarks.fetch import write_directory

    ids = write_directory(tmp_path / "directory", 200_000)
    directory = Directory((tmp_path / "directory").read_bytes())
    wanted = {ids[36 * at : 36 * at + 36]: at for at in random.Random(0).sample(range(200_000), 3000)}
    began = time.process_time()
    count = sum(1 for _ in archive.find(directory, wanted))
    assert time.process_time() - began < 2
    assert count == 3000
