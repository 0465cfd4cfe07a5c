"""The protocol of a store, and its two kinds by their addresses."""

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self

from handdata.assets import cache_folder
from handdata.errors import UserError
from handdata.files import make_folder, write_text
from handdata.store.folder import Folder
from handdata.store.url import UrlStore

_MARK = ".store"  # file of a copy with the store's URL, so that a command on the copy uses the store
_PLACE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)  # `Path` makes one slash of two
_URL = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}(/[A-Za-z0-9_=.+-]*[A-Za-z0-9_=-][A-Za-z0-9_=.+-]*)+")


class Store(Protocol):
    """Files that all processes of a build share. All paths are below `folder`."""

    folder: Path  # where this process reads and writes them
    place: str  # address of the store, for people

    def bring(self, *paths: Path) -> None:
        """Make these files those of the store; a file that the store lacks is removed."""

    def bring_all(self, wanted: Callable[[str], bool]) -> None:
        """Make all files those of the store whose names, relative to the folder, are wanted.

        Of images, only the sizes are compared.
        """

    def put(self, *paths: Path) -> None:
        """Make these files appear in the store, unless it has them from this process."""

    def put_missing(self, paths: list[Path]) -> None:
        """Make those images appear that the store lacks, or has with another size."""

    def remove(self, *paths: Path) -> None:
        """Remove these files here and in the store."""

    def mirror(self, wanted: Callable[[str], bool]) -> None:
        """Make the wanted files of the store those of the folder, after `bring_all`; others are removed."""

    def lock(self, part: str | None) -> AbstractContextManager[None]:
        """Lock the build inside the block; processes with different parts, such as `2/7`, share it.

        Raises `UserError` while another process works on the build, or on the same part.
        """

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock of this name while the block runs; wait for another process that holds it."""

    def elsewhere(self) -> AbstractContextManager[Self]:
        """Yield the store with a folder for a worker that may run on another machine."""


def open_store(place: str | Path, part: str | None = None) -> Store:
    """Return the store of an address: a folder, or a URL such as `s3://bucket/build`.

    The copy of a URL is in the cache; each part has one of its own. Raises `UserError` for a URL that cannot be used.
    """
    match = _PLACE.fullmatch(str(place))
    if match is None:
        folder = Path(place)
        url = read_mark(folder)
        return UrlStore(url, folder.absolute()) if url else Folder(folder)
    scheme, name = match[1].lower(), match[2].rstrip("/")
    if scheme not in ("s3", "gs"):
        raise UserError(f"a build cannot be under {scheme}://: give a folder, or s3://BUCKET/NAME or gs://BUCKET/NAME")
    if not _URL.fullmatch(name):
        raise UserError(
            f"the build's URL must be {scheme}://BUCKET/NAME, in letters, digits and -_.+=, without passwords and"
            " options: these come from the environment, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
        )
    url = f"{scheme}://{name}"
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    copy = "whole" if part is None else f"part-{part.replace('/', '-of-')}"
    folder = cache_folder().absolute() / "builds" / f"{name.rpartition('/')[2]}-{digest}" / copy
    make_folder(folder)
    if read_mark(folder) != url:
        write_text(folder / _MARK, url + "\n")
    return UrlStore(url, folder)


def everything(name: str) -> bool:
    """Return True: all shared files are wanted."""
    return True


def read_mark(folder: Path) -> str | None:
    """Return the URL of the store whose copy a folder is, None for other folders."""
    try:
        url = (folder / _MARK).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return url if re.match(r"(s3|gs)://", url) and _URL.fullmatch(url[5:]) else None
