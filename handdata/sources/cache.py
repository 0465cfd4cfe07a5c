"""Parts of remote archives, kept in `~/.cache/hand1000/index` under names that end with the sha256 of the content.

A file whose content is not that of its name was damaged: it counts as absent, is removed, and is read again.
"""

import hashlib
from pathlib import Path

from handdata.assets import cache_folder
from handdata.files import sha256_of, whole_file
from handdata.sources.http import RemoteFile
from handdata.web.urls import identity_url


def key(file: RemoteFile, more: str = "") -> str:
    """Return the cache's name for data read from a remote file; it changes with the file's URL, length and ETag."""
    parts = (identity_url(file.given), file.length, file.identity, *([more] if more else []))
    return hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def find(name: str, kind: str) -> Path | None:
    """Return the kept file, None without an undamaged one."""
    for path in _folder().glob(f"{name}.*.{kind}"):
        try:
            if path.name == f"{name}.{sha256_of(path)}.{kind}":
                return path
            path.unlink()
        except OSError:
            continue
    return None


def keep(name: str, kind: str, data: bytes) -> Path:
    """Write a file of the cache; return its path."""
    path = _folder() / f"{name}.{hashlib.sha256(data).hexdigest()}.{kind}"
    with whole_file(path) as partial:
        partial.write_bytes(data)
    return path


def _folder() -> Path:
    return cache_folder() / "index"
