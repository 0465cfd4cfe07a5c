"""One source in several places: parts are read from the first place that works."""

import threading
from collections.abc import Mapping
from pathlib import Path

from handdata.errors import Unfinished
from handdata.rows.manifest import SourceFacts
from handdata.sources import archive
from handdata.sources.archive import BadArchive, BadMember, LocalFile
from handdata.sources.http import Client, RemoteFile, Replaced
from handdata.web.client import Refused, TransientError
from handdata.web.urls import is_remote

_MOST_EXHAUSTED = 3  # consecutive reads that failed after all attempts: the place is down


class ArchiveReplaced(Unfinished):
    """The archive that was indexed is gone: its place holds another one now."""


class Mirrors:
    """The places of an archive or folder, in order. Shared by threads."""

    def __init__(self, facts: SourceFacts, client: Client, addresses: Mapping[str, str] | None = None) -> None:
        """`addresses` are the addresses to request, by their public forms, where these differ."""
        self.facts, self._client, self._addresses = facts, client, addresses or {}
        self.attempts = client.options.attempts
        self._lock, self._comparing = threading.Lock(), threading.Lock()
        self._open: dict[str, RemoteFile | LocalFile] = {}
        self._left_out: dict[str, str] = {}  # why, by place
        self._replaced = False  # the place that was indexed holds another archive

    def read(self, start: int, size: int, other: bool = False) -> bytes:
        """Return a part of the archive, of `size` bytes or up to its end.

        With `other` the places are tried in reverse order, since the first one returned wrong bytes. Raises `BadMember`
        (`not-fetched`) after all attempts at all places, `Unfinished` where no place is left.
        """
        size = min(size, self.facts.length - start)
        if start < 0 or size <= 0:
            raise BadMember("wrong-header", "the member is outside the archive")
        errors = []
        for place in self._places()[:: -1 if other else 1]:
            try:
                file = self._file(place)
                if isinstance(file, LocalFile):
                    return file.read(start, size)
                try:
                    return self._client.read(file, start, size)
                except Replaced as error:  # or it seems to be: then it is compared with the indexed archive
                    return self._client.read(self._compared(place, file, error), start, size)
            except TransientError as error:
                errors.append(f"{place}: {error}")
                opened = self._open.get(place)
                if isinstance(opened, RemoteFile) and opened.exhausted >= _MOST_EXHAUSTED:
                    self._leave_out(place, error)
            except Refused as error:
                self._leave_out(place, error)
        self._places()
        raise BadMember("not-fetched", "; ".join(errors) or "no place is left")

    def read_file(self, name: str) -> bytes:
        """Return a file of a folder. Raises `BadMember` (`image-missing`, `too-large`)."""
        for place in self.facts.places:
            path = Path(place) / name
            if path.is_file():
                if path.stat().st_size > self._client.options.largest:
                    raise BadMember("too-large", f"{path} has {path.stat().st_size:,} bytes")
                return path.read_bytes()
        raise BadMember("image-missing", f"{name} is missing from {' and '.join(self.facts.places)}")

    def _compared(self, place: str, seen: RemoteFile, error: Replaced) -> RemoteFile:
        """Return a remote file again if only its ETag changed: its length and directory are those that were indexed.

        From then on only the length is compared, since servers behind one name may give one file several ETags; every
        member is checked by its CRC-32. Raises `Replaced` for another archive.
        """
        with self._comparing:
            now = self._open[place]
            if now is not seen and isinstance(now, RemoteFile):
                return now  # another thread has compared it
            if not self.facts.directory:
                raise error
            file = self._client.open(self._addresses.get(place, place))
            if not self._is_indexed(file):
                raise error
            file.compares = False
            with self._lock:
                self._open[place] = file
            return file

    def _is_indexed(self, file: RemoteFile | LocalFile) -> bool:
        """Return whether a file has the length and the central directory of the archive that was indexed."""
        try:
            same = file.length == self.facts.length
            return same and archive.fingerprint(archive.read_directory(file)) == self.facts.directory
        except BadArchive:
            return False

    def _places(self) -> list[str]:
        with self._lock:
            places = [place for place in self.facts.places if place not in self._left_out]
            if not places:
                reasons = "; ".join(f"{place}: {why}" for place, why in self._left_out.items())
                kind = ArchiveReplaced if self._replaced else Unfinished
                raise kind(f"no place of the archive can be read ({reasons})")
            return places

    def _file(self, place: str) -> RemoteFile | LocalFile:
        """Open a place once; no request is sent. A local file of another length is another archive (`Replaced`)."""
        with self._lock:
            if place not in self._open:
                length, identity = self.facts.length, self.facts.identities.get(place)
                if is_remote(place):  # one that has never answered is left out after its first exhausted read
                    exhausted = _MOST_EXHAUSTED - 1 if identity is None else 0
                    address = self._addresses.get(place, place)
                    self._open[place] = RemoteFile(address, self._client, length, identity or "", exhausted)
                elif not Path(place).is_file():
                    raise Refused("the file does not exist")
                else:
                    self._open[place] = self._local(Path(place), identity)
            return self._open[place]

    def _local(self, path: Path, identity: str | None) -> LocalFile:
        """Open a local archive. Raises `Replaced` if it was written since and is another one now."""
        file = LocalFile(path)
        if file.length != self.facts.length:
            raise Replaced(f"it has {file.length:,} bytes, the indexed archive {self.facts.length:,}: select again")
        if identity and identity != file.identity and self.facts.directory and not self._is_indexed(file):
            raise Replaced("its members are not those of the indexed archive: select again")
        return file

    def _leave_out(self, place: str, error: Exception) -> None:
        with self._lock:
            self._left_out[place] = str(error)
            if isinstance(error, Replaced) and place in self.facts.identities:
                self._replaced = True
