"""What an archive or folder of images holds, found by gesture and image id, whatever its inner layout."""

import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from handdata.errors import UserError
from handdata.gestures import gestures as all_gestures
from handdata.sources import archive
from handdata.sources.archive import FOLDER
from handdata.sources.places import Archive, is_remote, normal_gesture

if TYPE_CHECKING:
    from handdata.sources.http import Client


Say = Callable[[str], None]  # tells a person what is being read

_DIRECTORY_TRIES = 4


class Index(Protocol):
    """The members of one source."""

    place: str  # the place that was asked
    length: int  # bytes of the archive, 0 for a folder
    identity: str

    def find(self, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, int, bytes]]: ...
    def entry(self, position: int) -> archive.Entry: ...


@dataclass
class ZipIndex:
    """A zip archive, near or far."""

    reader: archive.Reader
    directory: archive.Directory

    def __post_init__(self) -> None:
        self.place, self.length, self.identity = self.reader.place, self.reader.length, self.reader.identity

    def find(self, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, int, bytes]]:
        return archive.find(self.directory, wanted)

    def entry(self, position: int) -> archive.Entry:
        return archive.entry_at(self.directory, position)


@dataclass
class FolderIndex:
    """A folder in HaGRID's layout: `<anything>/<gesture>/<image id>.jpg`."""

    root: Path
    names: list[str] = field(default_factory=list)
    length: int = 0
    identity: str = ""

    def __post_init__(self) -> None:
        self.place = str(self.root)

    def find(self, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, int, bytes]]:
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            for file in sorted(files):
                value = wanted.get(os.fsencode(file.rpartition(".")[0]))
                if value is not None:
                    self.names.append((Path(folder) / file).relative_to(self.root).as_posix())
                    yield value, len(self.names) - 1, os.fsencode(self.names[-1])

    def entry(self, position: int) -> archive.Entry:
        data = (self.root / self.names[position]).read_bytes()
        return archive.Entry(self.names[position], FOLDER, zlib.crc32(data), len(data), len(data), FOLDER)


def open_index(source: Archive, client: "Client", say: Say) -> Index:
    """Open the first place of an archive that answers. Raises `UserError` where none does."""
    opened = open_place(source, client)
    return opened if isinstance(opened, FolderIndex) else zip_index(opened, say)


def open_place(source: Archive, client: "Client") -> archive.Reader | FolderIndex:
    """Return the first place of an archive that answers, as a folder or as a file to read from."""
    troubles: list[str] = []
    for place in source.places:
        if is_remote(place):
            reader = client.try_open(place, troubles)
            if reader is not None:
                return reader
        elif Path(place).is_dir():
            return FolderIndex(Path(place))
        elif Path(place).is_file():
            return archive.LocalFile(Path(place))
        else:
            troubles.append(f"{place} does not exist")
    raise UserError(f"no place of {source.name} can be read ({'; '.join(troubles)}): correct the recipe's [source]")


def zip_index(reader: archive.Reader, say: Say) -> ZipIndex:
    """Read an archive's central directory, a far one's from the cache where it has been read before.

    A far one that makes no sense is read again: a server may have sent something else. Raises `UserError`.
    """
    for _ in range(_DIRECTORY_TRIES if is_remote(reader.place) else 1):
        try:
            start, size, shift = archive.locate(reader)
            cached = cache_path(reader)
            if is_remote(reader.place) and cached.is_file() and cached.stat().st_size == size:
                return ZipIndex(reader, archive.Directory(_mapped(cached), shift))
            if is_remote(reader.place):
                say(f"reading the index of {reader.place}: {size / 1e6:,.1f} MB")
            if not is_remote(reader.place) or not size:
                directory = archive.Directory(bytes(reader.read(start, size)), shift)
                archive.check(directory, size)
                return ZipIndex(reader, directory)
            return ZipIndex(reader, _kept(reader.read(start, size), cached, size, shift))
        except archive.BadArchive as error:
            trouble = str(error)
            reader.forget()
            continue
    raise UserError(f"{reader.place} is no zip archive that can be read: {trouble}")


def cache_path(reader: archive.Reader, kind: str = "directory") -> Path:
    """Return where something read from a far file is kept: the name changes with URL, length and ETag."""
    import hashlib

    from handdata.assets import cache_folder

    key = hashlib.sha256(f"{reader.place}\n{reader.length}\n{reader.identity}".encode()).hexdigest()[:32]
    return cache_folder() / "index" / f"{key}.{kind}"


def gesture_fits(member: bytes, gesture: str, only_gesture: str | None) -> bool:
    """Tell whether a member may be the image of this gesture: its parent folder names no other one."""
    if only_gesture is not None:
        return True
    parent = normal_gesture(PurePosixPath(member.decode("utf-8", "replace")).parent.name)
    return parent == gesture or parent not in all_gestures()


def _kept(data: bytes | bytearray, cached: Path, size: int, shift: int) -> archive.Directory:
    """Keep a directory in the cache, if it is one, and return it mapped from there, out of the memory."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_name(f".{cached.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        directory = archive.Directory(_mapped(partial), shift)
        archive.check(directory, size)
        partial.replace(cached)
    finally:
        partial.unlink(missing_ok=True)
    return directory


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
