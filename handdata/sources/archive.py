"""Zip archives, read in parts: locate the central directory, scan it for the wanted names, unpack single members.

Python's `zipfile` makes an object for every entry (8.9 s and 931 MB for HaGRID's 1.09 million); this module compares
each entry's name in place and parses only the wanted ones. (APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.5.3)
"""

import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FOLDER, STORED, DEFLATED = -1, 0, 8  # FOLDER, our own, for method and offset: the member is a file in a folder
ENCRYPTED = 99  # the manifest's method of an encrypted member: zip's own number for AES
TAIL_BYTES = (1 << 16) + 1024  # bytes; the end record with the longest comment, after zip64's

_ENTRY = struct.Struct("<4s4xHH4xIIIHHH8xI")  # signature, flags, method, crc, sizes, lengths of name, extra, comment
_LENGTHS = struct.Struct("<4s24xHHH")
_LOCAL = struct.Struct("<4s22xHH")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_ENCRYPTED_FLAG, _UTF8_FLAG = 0x1, 0x800
_MAX_DIRECTORY = 1 << 30  # bytes; HaGRID's 1.09 million entries take 0.11 GB
_MOST = (1 << 63) - 1  # larger numbers in a directory are wrong and do not fit into the manifest's columns
_LOCAL_SLACK = 128  # bytes read in addition: a local header's extra field may be longer than the directory's

Data = bytes | bytearray | memoryview


class Reader(Protocol):
    """Random access to a local or remote file."""

    length: int

    def read(self, start: int, size: int) -> bytes | bytearray: ...


class BadArchive(Exception):
    """The file is not a readable zip archive. The message is one clause with the cause."""


class BadMember(Exception):
    """A member cannot be unpacked. `reason` is one of `schema.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Entry:
    """The central directory's entry of one member."""

    name: str
    method: int
    crc32: int
    compressed_size: int
    size: int
    offset: int  # bytes from the start of the file to the local header
    encrypted: bool = False


@dataclass(frozen=True)
class Directory:
    """A central directory's bytes."""

    data: bytes | mmap.mmap
    shift: int = 0  # added to its offsets: number of bytes before the archive in the file


class LocalFile:
    """A file on this machine."""

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._file = path.open("rb")
        status = os.fstat(self._file.fileno())
        self.length = status.st_size
        self.identity = f"{status.st_size}-{status.st_mtime_ns}"  # changes with the content

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of the file, fewer at its end, none outside of it."""
        inside = 0 <= start < self.length
        return os.pread(self._file.fileno(), min(size, self.length - start), start) if inside and size > 0 else b""


def locate(reader: Reader) -> tuple[int, int, int]:
    """Return start, size and offset shift of an archive's central directory. Raises `BadArchive`."""
    tail_start = max(0, reader.length - TAIL_BYTES)
    tail = reader.read(tail_start, reader.length - tail_start)
    at = _find_end(tail)
    *_, size, offset, _comment = _END.unpack_from(tail, at)
    end = tail_start + at  # where the directory ends
    locator = at - _LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\6\7":
        _, _, stated, _ = _LOCATOR.unpack_from(tail, locator)
        # bytes before the archive shift its offsets: the record is right before the locator then
        records = ((start, _read_inside(reader, start, _END64.size)) for start in (stated, end - 76))
        end, record = next(((start, data) for start, data in records if data[:4] == b"PK\6\6"), (0, b""))
        if len(record) < _END64.size:
            raise BadArchive("its zip64 end record is missing")
        *_, size, offset = _END64.unpack(record)
    start = end - size
    if size > _MAX_DIRECTORY:
        raise BadArchive(f"its end record states a directory of {size:,} bytes")
    if start < 0 or offset > start:
        raise BadArchive("its central directory is not at the offset in the end record")
    return start, size, start - offset


def read_directory(reader: Reader) -> Directory:
    """Read an archive's central directory and check its structure. Raises `BadArchive`."""
    start, size, shift = locate(reader)
    directory = Directory(bytes(reader.read(start, size)), shift)
    check(directory, size)
    return directory


def fingerprint(directory: Directory) -> str:
    """Return the sha256 of a directory: equal for two archives with the same members at the same places."""
    digest = hashlib.sha256(directory.data)
    digest.update(str(directory.shift).encode())
    return digest.hexdigest()


def check(directory: Directory, size: int) -> None:
    """Raise `BadArchive` unless this is a complete central directory of that size."""
    for _ in find(directory, {}):
        pass
    if len(directory.data) != size:
        raise BadArchive(f"its central directory lacks {size - len(directory.data):,} bytes")


def find(directory: Directory, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, int, bytes]]:
    """Yield (wanted's value, position in the directory, member name) for every member whose stem is wanted.

    The stem is the file name without folders and extension. Raises `BadArchive` for a truncated directory.
    """
    data, position, end = directory.data, 0, len(directory.data)
    lengths, get = _LENGTHS.unpack_from, wanted.get
    while position + 46 <= end:
        signature, name_length, extra, comment = lengths(data, position)
        if signature != b"PK\1\2":
            raise BadArchive(f"its central directory is damaged at byte {position}")
        name = data[position + 46 : position + 46 + name_length]
        if b"\\" in name:
            name = with_slashes(name)
        value = get(name[name.rfind(b"/") + 1 : name.rfind(b".")])
        if value is not None:
            yield value, position, name
        position += 46 + name_length + extra + comment
    if position != end:
        raise BadArchive("its central directory is truncated")


def with_slashes(name: bytes) -> bytes:
    """Return a member's name with `/` for `\\` where that is its only separator (as PowerShell 5 writes names)."""
    return name if b"/" in name else name.replace(b"\\", b"/")


def entries(directory: Directory) -> Iterator[Entry]:
    """Yield every entry, for small archives."""
    position = 0
    while position + 46 <= len(directory.data):
        yield entry_at(directory, position)
        _, *lengths = _LENGTHS.unpack_from(directory.data, position)
        position += 46 + sum(lengths)


def entry_at(directory: Directory, position: int) -> Entry:
    """Parse the entry at a position in the directory, zip64 fields included. Raises `BadArchive`."""
    data = directory.data
    signature, flags, method, crc, packed, size, name_length, extra_length, _, offset = _ENTRY.unpack_from(
        data, position
    )
    if signature != b"PK\1\2":
        raise BadArchive(f"its central directory is damaged at byte {position}")
    start = position + 46
    name = data[start : start + name_length]
    extra = data[start + name_length : start + name_length + extra_length]
    size, packed, offset = _zip64(extra, (size, packed, offset))
    text = _text(with_slashes(bytes(name)), "utf-8" if flags & _UTF8_FLAG else "cp437")
    packed, size, offset = (min(value, _MOST) for value in (packed, size, offset + directory.shift))
    return Entry(text, method, crc, packed, size, offset, bool(flags & _ENCRYPTED_FLAG))


def span(entry: Entry) -> tuple[int, int]:
    """Return start and end of the bytes to read for a member: local header, room for its extra field, the data."""
    return entry.offset, entry.offset + _LOCAL.size + len(entry.name.encode()) + _LOCAL_SLACK + entry.compressed_size


def payload(entry: Entry, data: Data, read: Callable[[int, int], Data]) -> memoryview:
    """Return a member's compressed bytes out of `data`, which begins with its local header.

    Where the header's extra field is longer than expected, `read(start, size)` reads them again. Raises `BadMember`.
    """
    if len(data) < _LOCAL.size or bytes(data[:4]) != b"PK\3\4":
        raise BadMember("wrong-header", "the offset in the directory is not that of a local header")
    _, name_length, extra_length = _LOCAL.unpack_from(data)
    name = bytes(data[_LOCAL.size : _LOCAL.size + name_length])
    if entry.name not in (_text(with_slashes(name), code) for code in ("utf-8", "cp437")):
        raise BadMember("wrong-header", f"the local header names another member, {name[:80]!r}")
    start = _LOCAL.size + int(name_length) + int(extra_length)
    end = start + entry.compressed_size
    return memoryview(data if len(data) >= end else read(entry.offset, end))[start:end]


def check_limits(entry: Entry, largest: int) -> None:
    """Raise `BadMember` for a member that must not be read: declared too large, encrypted or compressed otherwise."""
    if max(entry.size, entry.compressed_size) > largest:
        raise BadMember("too-large", f"{max(entry.size, entry.compressed_size):,} bytes, more than {largest:,}")
    if entry.encrypted or entry.method not in (FOLDER, STORED, DEFLATED):
        kind = "is encrypted" if entry.encrypted else f"has compression method {entry.method}"
        raise BadMember("unsupported-member", f"the member {kind}")


def unpack(entry: Entry, payload: bytes | memoryview) -> bytes:
    """Return a member's content from its compressed bytes, inflated no further than its declared size.

    Raises `BadMember` where size or CRC-32 differ from the directory's.
    """
    content = bytes(payload)
    if entry.method == DEFLATED:
        inflater = zlib.decompressobj(-15)
        try:
            content = inflater.decompress(content, entry.size + 1)
        except zlib.error as error:
            raise BadMember("wrong-crc", f"the deflated data is damaged ({error})") from None
    if len(content) != entry.size:
        more = "more" if len(content) > entry.size else f"{len(content):,} bytes, fewer"
        raise BadMember("wrong-size", f"it holds {more} than the {entry.size:,} bytes it declares")
    if zlib.crc32(content) != entry.crc32:
        raise BadMember("wrong-crc", f"CRC-32 is {zlib.crc32(content):08x}, not {entry.crc32:08x}")
    return content


def _text(name: bytes, encoding: str) -> str:
    return name.decode(encoding, "backslashreplace")


def _read_inside(reader: Reader, start: int, size: int) -> bytes:
    """Return bytes of a file, none where the part is not inside of it."""
    return bytes(reader.read(start, size)) if 0 <= start <= reader.length - size else b""


def _find_end(tail: bytes | bytearray) -> int:
    at = len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at)) >= 0:
        if at + _END.size <= len(tail):
            comment: int = _END.unpack_from(tail, at)[-1]
            if at + _END.size + comment == len(tail):
                return at
    raise BadArchive("it has no end record: it is truncated, or not a zip archive")


def _zip64(extra: bytes, values: tuple[int, int, int]) -> tuple[int, ...]:
    """Replace values that do not fit into 32 bits with those of the zip64 extra field, in its fixed order."""
    if 0xFFFFFFFF not in values:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            field = (value for (value,) in struct.iter_unpack("<Q", _whole_words(extra[position + 4 :][:length])))
            return tuple(next(field, value) if value == 0xFFFFFFFF else value for value in values)
        position += 4 + length
    return values


def _whole_words(data: bytes) -> bytes:
    """Return data up to a multiple of 8 bytes: a field may state a length that it does not have."""
    return data[: len(data) // 8 * 8]
