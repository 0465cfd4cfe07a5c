"""Indices: the members of an archive or folder, found by their file names, whatever its inner layout."""

import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from handdata.errors import Unfinished, UserError
from handdata.gestures import gestures as all_gestures
from handdata.sources import archive, cache
from handdata.sources.archive import FOLDER, Entry, LocalFile
from handdata.sources.http import Client, RemoteFile
from handdata.sources.places import Archive, is_build, normal_gesture
from handdata.web.client import Refused, TransientError
from handdata.web.urls import is_remote, public_url

_DIRECTORY_ATTEMPTS = 4


@dataclass
class ZipIndex:
    """The members of a local or remote zip archive."""

    reader: LocalFile | RemoteFile
    directory: archive.Directory

    def __post_init__(self) -> None:
        self.place, self.length, self.identity = self.reader.place, self.reader.length, self.reader.identity
        self.fingerprint = archive.fingerprint(self.directory)

    def find(self, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (wanted's value, position, member name) for every member whose stem is wanted."""
        return archive.find(self.directory, wanted)

    def entry(self, position: int) -> Entry:
        return archive.entry_at(self.directory, position)

    def json_files(self) -> list[Entry]:
        return [entry for entry in archive.entries(self.directory) if entry.name.endswith(".json")]


@dataclass
class FolderIndex:
    """The files of a folder in HaGRID's layout: `<anything>/<gesture>/<image id>.jpg`."""

    root: Path
    names: list[str] = field(default_factory=list)
    length: int = 0
    identity: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        self.place = str(self.root)

    def find(self, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (wanted's value, position, member name) for every file whose stem is wanted."""
        for path in _walk(self.root):
            value = wanted.get(os.fsencode(path.name.rpartition(".")[0]))
            if value is not None and _is_text(path) and path.is_file():
                self.names.append(path.relative_to(self.root).as_posix())
                yield value, len(self.names) - 1, os.fsencode(self.names[-1])

    def entry(self, position: int) -> Entry:
        data = (self.root / self.names[position]).read_bytes()
        return Entry(self.names[position], FOLDER, zlib.crc32(data), len(data), len(data), FOLDER)

    def json_files(self) -> list[Entry]:
        """Return the JSON files with name and size; their CRC-32 is not computed."""
        paths = [path for path in self.root.rglob("*.json") if _is_text(path) and path.is_file()]
        sizes = {path.relative_to(self.root).as_posix(): path.stat().st_size for path in paths}
        return [Entry(name, FOLDER, 0, size, size, FOLDER) for name, size in sizes.items()]


def folder_state(root: Path) -> list[list[str | int]]:
    """Return the path below the folder, the size and the time of each file that a selection from a folder may read."""
    state: list[list[str | int]] = []
    for path in _walk(root):
        if path.suffix.lower() in (".json", ".jpg", ".jpeg") and path.is_file():
            status = path.stat()
            state.append([path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns])
    return sorted(state)


def open_place(source: Archive, client: Client) -> LocalFile | RemoteFile | Path:
    """Return the first place of an archive that can be read, a folder as its path.

    Raises `Unfinished` if none can be read and a server is down, `UserError` if each is missing or refused.
    """
    errors: list[Exception] = []
    for place in source.places:
        try:
            if is_remote(place):
                return client.open(place)
            if Path(place).is_dir():
                return Path(place)
            if Path(place).is_file():
                return LocalFile(Path(place))
            errors.append(Refused(f"{public_url(place)} does not exist"))
        except TransientError as error:
            errors.append(TransientError(f"{public_url(place)}: {error}"))
        except Refused as error:
            errors.append(Refused(f"{public_url(place)}: {error}"))
    raise no_place(source.name, errors)


def no_place(name: str, errors: list[Exception]) -> Unfinished | UserError:
    """Return the error for an archive of which no place can be read: an outage may end, a refusal does not."""
    reasons = f"no place of {name} can be read ({'; '.join(map(str, errors))})"
    if any(isinstance(error, TransientError) for error in errors):
        return Unfinished(f"{reasons}: run the same command again when the server answers")
    return UserError(f"{reasons}: correct the recipe's [source]")


def read_index(opened: LocalFile | RemoteFile | Path) -> ZipIndex | FolderIndex:
    """Return the index of an opened place; a remote archive's directory is kept in the cache.

    A remote directory that is damaged is read again, since the server may have sent wrong bytes. Raises `UserError`.
    """
    if isinstance(opened, Path):
        return FolderIndex(opened)
    for _ in range(1 if isinstance(opened, LocalFile) else _DIRECTORY_ATTEMPTS):
        try:
            if isinstance(opened, LocalFile):
                return ZipIndex(opened, archive.read_directory(opened))
            return ZipIndex(opened, _remote_directory(opened))
        except archive.BadArchive as error:
            cause = str(error)
            if isinstance(opened, RemoteFile):
                opened.tail = b""
    raise UserError(f"{opened.place} is not a readable zip archive: {cause}")


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files of a folder in order, except those of builds in it."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_build(Path(folder) / name))
        for file in sorted(files):
            yield Path(folder) / file


def _remote_directory(opened: RemoteFile) -> archive.Directory:
    """Return a remote archive's directory, from the cache if it is there. Raises `archive.BadArchive`."""
    start, size, shift = archive.locate(opened)
    if not size:
        return archive.Directory(b"", shift)
    name = cache.key(opened)
    cached = cache.find(name, "directory")
    if cached is None or cached.stat().st_size != size:
        opened.client.announce(f"reading the index of {opened.place}: {size / 1e6:,.1f} MB")
        data = bytes(opened.read(start, size))
        archive.check(archive.Directory(data), size)
        cached = cache.keep(name, "directory", data)
    return archive.Directory(_mapped(cached), shift)  # mapped: it needs no memory of its own


def gesture_fits(member: bytes, gesture: str, only_gesture: str | None) -> bool:
    """Return whether a member can be an image of this gesture: its parent folder does not name another one."""
    if only_gesture is not None:
        return True
    parent = normal_gesture(PurePosixPath(member.decode("utf-8", "replace")).parent.name)
    return parent == gesture or parent not in all_gestures()


def _is_text(path: Path) -> bool:
    """Return whether a path's name is UTF-8: others can be stored neither in the manifest nor in a message."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
