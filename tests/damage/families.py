"""The families of tries by name, and their shares of all tries."""

from pathlib import Path
from typing import Protocol

from tests.damage import chats, files, flags, http, pictures, zips
from tests.damage.trial import Trial


class Family(Protocol):
    """A family of tries."""

    def cases(self, fixture: Path) -> list[str]:
        """Return the names of all cases."""

    def run(self, trial: Trial, name: str) -> None:
        """Run one case."""


FAMILIES: dict[str, Family] = {
    "build": files.BUILD,
    "dataset": files.DATASET,
    "paused run": files.PAUSED,
    "run": files.RUN,
    "model": files.MODEL,
    "generated images": files.IMAGES,
    "cache": files.CACHE,
    "base": files.BASE,
    "HTTP answers": http.FAMILY,
    "zip structures": zips.FAMILY,
    "image files": pictures.FAMILY,
    "chat servers": chats.FAMILY,
    "flags and recipes": flags.FAMILY,
}
SHARES = {
    "build": 24, "dataset": 7, "paused run": 5, "run": 6, "model": 5, "generated images": 3, "cache": 3, "base": 4,
    "HTTP answers": 9, "zip structures": 12, "image files": 8, "chat servers": 3, "flags and recipes": 14,
}  # fmt: skip
