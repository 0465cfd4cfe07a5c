"""One source in several places: parts are read from the first place that works."""

import threading
from pathlib import Path

from handdata.errors import Unfinished
from handdata.rows.manifest import SourceFacts
from handdata.sources.archive import BadMember, LocalFile
from handdata.sources.http import Client, Refused, RemoteFile, Replaced, TransientError
from handdata.sources.places import is_remote

_MOST_EXHAUSTED = 3  # consecutive reads that failed after all attempts: the place is down


class Mirrors:
    """The places of an archive or folder, in order. Shared by threads."""

    def __init__(self, facts: SourceFacts, client: Client) -> None:
        self.facts, self._client = facts, client
        self.attempts = client.options.attempts
        self._lock = threading.Lock()
        self._open: dict[str, RemoteFile | LocalFile] = {}
        self._left_out: dict[str, str] = {}  # why, by place

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
                return file.read(start, size) if isinstance(file, LocalFile) else self._client.read(file, start, size)
            except TransientError as error:
                errors.append(f"{place}: {error}")
                if isinstance(file, RemoteFile) and file.exhausted >= _MOST_EXHAUSTED:
                    self._leave_out(place, error)
            except Refused as error:
                self._leave_out(place, error)
        raise BadMember("not-fetched", "; ".join(errors) or "no place is left")

    def read_file(self, name: str) -> bytes:
        """Return a file of a folder. Raises `BadMember` (`image-missing`)."""
        for place in self.facts.places:
            path = Path(place) / name
            if path.is_file():
                return path.read_bytes()
        raise BadMember("image-missing", f"{name} is missing from {' and '.join(self.facts.places)}")

    def _places(self) -> list[str]:
        with self._lock:
            places = [place for place in self.facts.places if place not in self._left_out]
            if not places:
                reasons = "; ".join(f"{place}: {why}" for place, why in self._left_out.items())
                raise Unfinished(f"no place of the archive can be read ({reasons})")
            return places

    def _file(self, place: str) -> RemoteFile | LocalFile:
        """Open a place once; no request is sent. A local file of another length is another archive (`Replaced`)."""
        with self._lock:
            if place not in self._open:
                length, identity = self.facts.length, self.facts.identities.get(place)
                if is_remote(place):  # one that has never answered is left out after its first exhausted read
                    exhausted = _MOST_EXHAUSTED - 1 if identity is None else 0
                    self._open[place] = RemoteFile(place, self._client, length, identity or "", exhausted)
                elif not Path(place).is_file():
                    raise Refused("the file does not exist")
                else:
                    file = LocalFile(Path(place))
                    if file.length != length:
                        raise Replaced(f"it has {file.length:,} bytes, the indexed archive {length:,}: select again")
                    self._open[place] = file
            return self._open[place]

    def _leave_out(self, place: str, error: Exception) -> None:
        with self._lock:
            self._left_out[place] = str(error)
