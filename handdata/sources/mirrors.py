"""One source in several places: read from the first that works, leave those that do not."""

import threading
from pathlib import Path

from handdata.errors import Unfinished
from handdata.rows.manifest import SourceFacts
from handdata.sources.archive import BadMember, LocalFile
from handdata.sources.http import Client, Far, Refused, Replaced, Trouble
from handdata.sources.places import is_remote

_GIVE_UP = 3  # reads in a row that failed after all attempts: the place is down


class Mirrors:
    """Read parts of an archive, or files of a folder, from its places in order. Shared by the threads."""

    def __init__(self, facts: SourceFacts, client: Client) -> None:
        self.facts, self._client = facts, client
        self.attempts = client.options.attempts
        self._lock = threading.Lock()
        self._open: dict[str, Far | LocalFile] = {}
        self._left_out: dict[str, str] = {}  # place: why it is not asked any more

    def read(self, start: int, size: int, other: bool = False) -> bytes:
        """Return a part of the archive, of `size` bytes or up to its end.

        With `other` the last place is asked first: a first one gave bytes that were wrong. Raises `BadMember`
        (`not-fetched`) after all tries at all places, `Unfinished` where no place is left.
        """
        size = min(size, self.facts.length - start)
        if start < 0 or size <= 0:
            raise BadMember("wrong-header", "the member lies outside the archive")
        troubles = []
        for place in self._places()[:: -1 if other else 1]:
            try:
                file = self._file(place)
                return file.read(start, size) if isinstance(file, LocalFile) else self._client.read(file, start, size)
            except Trouble as trouble:
                troubles.append(f"{place}: {trouble}")
                if self._is_down(place):
                    self._leave_out(place, str(trouble))
            except Refused as refused:
                self._leave_out(place, str(refused))
        raise BadMember("not-fetched", "; ".join(troubles) or "no place is left")

    def read_file(self, name: str) -> bytes:
        """Return a file of a folder. Raises `BadMember` (`image-missing`)."""
        for place in self.facts.places:
            path = Path(place) / name
            if path.is_file():
                return path.read_bytes()
        raise BadMember("image-missing", f"{name} is not in {' or '.join(self.facts.places)} any more")

    def _places(self) -> list[str]:
        with self._lock:
            places = [place for place in self.facts.places if place not in self._left_out]
            if not places:
                reasons = "; ".join(f"{place}: {why}" for place, why in self._left_out.items())
                raise Unfinished(f"no place of the archive can be read ({reasons})")
            return places

    def _file(self, place: str) -> Far | LocalFile:
        """Open a place once; one whose length is not the indexed archive's holds another file."""
        with self._lock:
            file = self._open.get(place)
            if file is None:
                file = self._opened(place)
                self._open[place] = file
            return file

    def _opened(self, place: str) -> Far | LocalFile:
        known = self.facts.identities.get(place)
        if is_remote(place):
            file: Far | LocalFile = (
                self._client.open(place) if known is None else self._client.open(place, self.facts.length, known)
            )
        elif Path(place).is_file():
            file = LocalFile(Path(place))
        else:
            raise Refused("the file does not exist")
        if file.length != self.facts.length:
            raise Replaced(f"it holds {file.length:,} bytes, the indexed archive {self.facts.length:,}: select again")
        return file

    def _is_down(self, place: str) -> bool:
        """Tell whether a place could not be opened, or failed too often in a row."""
        file = self._open.get(place)
        return file is None or (isinstance(file, Far) and file.exhausted >= _GIVE_UP)

    def _leave_out(self, place: str, why: str) -> None:
        with self._lock:
            self._left_out[place] = why
