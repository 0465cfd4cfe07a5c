"""A folder on this machine, or one that machines mount, as a store: its files are the shared ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from handdata import files
from handdata.files import locked


class Folder:
    """A store whose files are used where they are. Its locks are those of the file system."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, str(folder)

    def bring(self, *paths: Path) -> None:
        pass

    def bring_all(self, wanted: Callable[[str], bool]) -> None:
        pass

    def put(self, *paths: Path) -> None:
        pass

    def put_missing(self, paths: list[Path]) -> None:
        pass

    def remove(self, *paths: Path) -> None:
        for path in paths:
            files.remove(path)

    def mirror(self, wanted: Callable[[str], bool]) -> None:
        pass

    @contextmanager
    def lock(self, part: str | None) -> Iterator[None]:
        busy = f"process {{process}} is working on {self.folder}: wait for it or end it"
        if part is None:
            with locked(self.folder / ".lock", busy):
                yield
            return
        own = self.folder / f".part-{part.replace('/', '-of-')}.lock"
        with (
            locked(self.folder / ".lock", busy, shared=True),
            locked(own, f"process {{process}} is working on part {part} of {self.folder}: wait for it or end it"),
        ):
            yield

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        with files.exclusive(self.folder / f".{name}.lock"):
            yield

    @contextmanager
    def elsewhere(self) -> Iterator[Self]:
        yield self
