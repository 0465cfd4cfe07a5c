"""Whole archives, downloaded from hosts without range support; an interrupted download resumes.

A file counts as whole if it has the length that the host stated and ends with the directory of a zip archive.
"""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handdata.files import require_room
from handdata.progress import Bar, bar
from handdata.sources import archive as archives
from handdata.sources.archive import BadArchive, LocalFile
from handdata.sources.http import Client, RemoteFile, identity_of, reject
from handdata.sources.index import no_place
from handdata.sources.places import Archive, Sources
from handdata.web.client import Deadline, Refused, TransientError, exchange, shown, whole_number
from handdata.web.urls import identity_url, is_remote, public_url

_ROOM_EVERY = 256 << 20  # bytes between two looks at the disk, for a host that states no length
_MOST_BAD = 2  # complete downloads that are not an archive, after which the host's file is wrong


class _NotAnArchive(TransientError):
    """The download is complete, but is not a whole archive."""


def download_all(sources: Sources, folder: Path, client: Client) -> Sources:
    """Download every remote archive into a folder; return the sources with these files as their first places.

    Archives that are in the folder are not downloaded again. Raises `Unfinished` where no place serves an archive now
    (the next call resumes), `UserError` where every place refuses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = tuple(_local(archive, folder, client) for archive in sources.images)
    return Sources(_local(sources.annotations, folder, client), images)


def download(file: RemoteFile, path: Path) -> None:
    """Write a whole remote file to a path, resuming an earlier download where the host supports ranges.

    Raises `TransientError` after all attempts, `Refused` where another attempt would fail too.
    """
    partial = path.with_name(f".{path.name}.download")
    label = partial.with_name(f"{partial.name}.identity")  # identity of the file that the partial one is a part of
    bad = 0
    with bar(desc=path.name, unit="B", unit_scale=True, show=file.client.progress) as progress:
        for attempt in range(file.client.options.attempts):
            try:
                stated = _append(file, partial, label, progress)
                _require_archive(partial)
                partial.replace(path)
                label.unlink(missing_ok=True)
                return
            except TransientError as error:
                last = error
            if isinstance(last, _NotAnArchive) and stated:  # else the host may have hung up early
                partial.unlink(missing_ok=True)
                bad += 1
                if bad == _MOST_BAD:
                    raise Refused(str(last))
            if file.client.pause(attempt, last):
                break
    raise last


def _local(archive: Archive, folder: Path, client: Client) -> Archive:
    """Return an archive with its downloaded file as the first place."""
    if not is_remote(archive.places[0]):
        return archive
    first = identity_url(archive.places[0])  # a new signature continues the old download
    name = re.sub(r"[^A-Za-z0-9._-]", "_", Path(urlsplit(public_url(first)).path).name)[-100:]
    path = folder / f"{hashlib.sha256(first.encode()).hexdigest()[:8]}-{name}"  # hosts may share a name
    _remove_damaged(path)
    errors: list[Exception] = []
    for place in archive.places:
        if path.is_file():
            break
        try:
            if is_remote(place):
                download(RemoteFile(place, client), path)
        except TransientError as error:
            errors.append(TransientError(f"{public_url(place)}: {error}"))
        except Refused as error:
            errors.append(Refused(f"{public_url(place)}: {error}"))
    if not path.is_file():
        raise no_place(archive.name, errors)
    return dataclasses.replace(archive, places=(str(path.absolute()), *archive.places))


def _append(file: RemoteFile, partial: Path, label: Path, progress: Bar[Any]) -> bool:
    """Request the missing end of a partial file and write it; the whole file where the host returns only that.

    Return whether the host stated a length, which the file has now.
    """
    file.identity = _read_label(label)
    done = partial.stat().st_size if partial.exists() and file.identity else 0
    file.length = -1
    request = file.request(f"{done}-" if done else "")
    with exchange(file.client.http, request, Deadline(file.client.options.timeout)) as response:
        file.follow(response)
        body, first = response.iter_raw(), b""
        headers = response.headers
        if response.status_code == 416 and headers.get("Content-Range") == f"bytes */{done}":
            return True  # an earlier process was killed before it renamed the file
        if response.status_code == 200:
            done, first = 0, next(body, b"")
            if not first.startswith(b"PK"):
                raise TransientError(f"a page of type {shown(headers.get('Content-Type', ''))} instead of the archive")
        elif response.status_code in (206, 416) and not _continues(file, response, done):
            partial.unlink(missing_ok=True)
            raise TransientError("the file was replaced: the download starts again")
        elif response.status_code != 206:
            reject(file, response)
        rest = whole_number(headers.get("Content-Length"))
        length = None if rest is None else done + rest
        require_room(partial.parent, rest or 0, "the archive")
        file.identity = identity_of(headers)
        label.write_text(file.identity, encoding="utf-8")
        progress.total, progress.n = length, done
        _write(partial, done, first, body, progress)
    size = partial.stat().st_size
    if length is not None and size != length:
        raise TransientError(f"{size:,} bytes instead of {length:,}")
    return length is not None


def _continues(file: RemoteFile, response: Any, done: int) -> bool:
    """Return whether an answer is the part of the same file that begins at `done`."""
    stated = response.headers.get("Content-Range", "")
    same = not done or identity_of(response.headers) == file.identity
    return response.status_code == 206 and stated.startswith(f"bytes {done}-") and same


def _write(partial: Path, done: int, first: bytes, body: Any, progress: Bar[Any]) -> None:
    unmeasured = 0
    with partial.open("r+b" if done else "wb") as output:
        output.seek(done)
        output.write(first)
        progress.update(len(first))
        for chunk in body:
            output.write(chunk)
            progress.update(len(chunk))
            unmeasured += len(chunk)
            if progress.total is None and unmeasured >= _ROOM_EVERY:
                require_room(partial.parent, 2 * _ROOM_EVERY, "the archive")
                unmeasured = 0


def _read_label(label: Path) -> str:
    try:
        return label.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _require_archive(path: Path) -> None:
    """Raise `_NotAnArchive` unless a file ends with a zip archive's whole directory."""
    try:
        archives.read_directory(LocalFile(path))
    except BadArchive as error:
        raise _NotAnArchive(f"the downloaded file is not a whole zip archive: {error}") from None


def _remove_damaged(path: Path) -> None:
    """Remove a downloaded archive that is not whole, so that it is downloaded again."""
    try:
        if path.is_file():
            _require_archive(path)
    except _NotAnArchive:
        path.unlink()
