"""A URL of S3 or Google Cloud Storage as a store: its objects are the shared files, the folder is a copy of some."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from handdata import files
from handdata.files import whole_file
from handdata.store.claims import LEASE, claimed
from handdata.store.objects import Objects

_CONNECTIONS = 16  # a request of a small object is mostly waiting
# Names of a build's shared files. Nothing else below the URL is read, changed or removed.
_SHARED = re.compile(
    r"recipe\.toml|run\.json|manifest\.parquet|\.?decisions\.jsonl?|fetch/journal(-\d+-of-\d+)?\.jsonl"
    r"|[a-z]+/\d{5,}\.parquet|images/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+\.jpg"
)
_State = tuple[int, int] | None  # size and time of a file here, None without one


class UrlStore:
    """A store of objects below a URL; the object `facts/00000.parquet` is the file of that name in the folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder, self.place = folder, url
        self._objects = Objects(url)
        self._same: dict[str, _State] = {}  # files that were as in the store, when this process copied them

    def bring(self, *paths: Path) -> None:
        self._each(self._bring, map(self._name, paths))

    def bring_all(self, wanted: Callable[[str], bool]) -> None:
        listed = {name: info for name, info in self._objects.listed().items() if _shared(name) and wanted(name)}
        here = self._here(wanted)
        for name in here - set(listed):
            self._remove_here(name)
        images = {name for name in listed if name.startswith("images/")}
        same = {name for name in images & here if (self.folder / name).stat().st_size == listed[name].size}
        self._each(self._bring, set(listed) - same)
        for name in set(listed) - images:  # the latest of several journals counts
            os.utime(self.folder / name, (listed[name].mtime.timestamp(),) * 2)
            self._same[name] = self._state(name)

    def put(self, *paths: Path) -> None:
        self._each(self._put, map(self._name, paths))

    def put_missing(self, paths: list[Path]) -> None:
        listed = self._objects.listed("images")
        sizes = {name: info.size for name, info in listed.items()}
        names = (self._name(path) for path in paths if path.is_file())
        self._each(self._put_again, [name for name in names if sizes.get(name) != (self.folder / name).stat().st_size])

    def remove(self, *paths: Path) -> None:
        names = list(map(self._name, paths))
        self._each(self._objects.remove, names)
        for name in names:
            self._remove_here(name)

    def mirror(self, wanted: Callable[[str], bool]) -> None:
        here = self._here(wanted)
        self._each(self._put, [name for name in here if not name.startswith("images/")])
        self.put_missing([self.folder / name for name in here if name.startswith("images/")])
        listed = {name for name in self._objects.listed() if _shared(name) and wanted(name)}
        self._each(self._objects.remove, listed - here)

    @contextmanager
    def lock(self, part: str | None) -> Iterator[None]:
        own = "build" if part is None else f"part-{part.replace('/', '-of-')}"

        def conflicts(claim: str) -> bool:
            return claim in ("build", own) or (part is None and claim.startswith("part-"))

        subject = self.place if part is None else f"part {part} of {self.place}, or on all of it"
        busy = f"{{process}} is working on {subject}: wait for it or end it (after a kill, wait for {LEASE:.0f} s)"
        with claimed(self._objects, own, conflicts, busy):
            yield

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        with claimed(self._objects, name, lambda claim: claim == name, busy=None):
            yield

    @contextmanager
    def elsewhere(self) -> Iterator[Self]:
        with tempfile.TemporaryDirectory(prefix="hand1000-") as folder:
            yield type(self)(self.place, Path(folder))

    def _name(self, path: Path) -> str:
        return path.absolute().relative_to(self.folder).as_posix()

    def _here(self, wanted: Callable[[str], bool]) -> set[str]:
        """Return the names of the wanted files of the folder."""
        paths = (path for pattern in ("*", "*/*", "images/*/*") for path in self.folder.glob(pattern))
        names = {path.relative_to(self.folder).as_posix() for path in paths if path.is_file()}
        return {name for name in names if _shared(name) and wanted(name)}

    def _state(self, name: str) -> _State:
        try:
            status = (self.folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size, status.st_mtime_ns

    def _bring(self, name: str) -> None:
        data, path = self._objects.read(name), self.folder / name
        if data is None:
            files.remove(path)
        elif not path.is_file() or path.read_bytes() != data:
            with whole_file(path, sync=False) as partial:  # a copy: the store has it
                partial.write_bytes(data)
        self._same[name] = self._state(name)

    def _put(self, name: str) -> None:
        if name not in self._same or self._same[name] != self._state(name):
            self._put_again(name)

    def _put_again(self, name: str) -> None:
        state = self._state(name)
        if state is not None:
            self._objects.put(name, (self.folder / name).read_bytes())
            self._same[name] = state

    def _remove_here(self, name: str) -> None:
        files.remove(self.folder / name)
        self._same.pop(name, None)

    def _each(self, work: Callable[[str], None], names: Iterable[str]) -> None:
        """Do the work for every name, several at once."""
        names = list(names)
        if len(names) == 1:
            work(names[0])
        elif names:
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                list(pool.map(work, names))


def _shared(name: str) -> bool:
    return _SHARED.fullmatch(name) is not None
