"""Whole archives, downloaded from hosts without range support; an interrupted download resumes."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handdata.errors import Unfinished
from handdata.files import require_room
from handdata.progress import Bar, bar
from handdata.sources.http import Client, Refused, RemoteFile, TransientError, http_errors, identity_of, reject
from handdata.sources.places import Archive, Sources, is_remote


def download_all(sources: Sources, folder: Path, client: Client) -> Sources:
    """Download every remote archive into a folder; return the sources with these files as their first places.

    Archives that are in the folder are not downloaded again. Raises `Unfinished` where no place serves an archive;
    the next call resumes.
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
    file.identity = label.read_text() if label.exists() else ""
    with bar(desc=path.name, unit="B", unit_scale=True, show=file.client.progress) as shown:
        for attempt in range(file.client.options.attempts):
            try:
                _append(file, partial, label, shown)
                partial.replace(path)
                label.unlink(missing_ok=True)
                return
            except TransientError as error:
                last = error
            if file.client.pause(attempt, last):
                break
    raise last


def _local(archive: Archive, folder: Path, client: Client) -> Archive:
    """Return an archive with its downloaded file as the first place."""
    if not is_remote(archive.places[0]):
        return archive
    name = Path(urlsplit(archive.places[0]).path).name
    path = folder / f"{hashlib.sha256(archive.places[0].encode()).hexdigest()[:8]}-{name}"  # hosts may share a name
    errors = []
    for place in archive.places:
        if path.is_file():
            break
        try:
            download(RemoteFile(place, client), path)
        except (TransientError, Refused) as error:
            errors.append(f"{place}: {error}")
    else:
        if not path.is_file():
            raise Unfinished(f"{path.name} cannot be downloaded ({'; '.join(errors)}); the same command resumes")
    return dataclasses.replace(archive, places=(str(path.absolute()), *archive.places))


def _append(file: RemoteFile, partial: Path, label: Path, shown: Bar[Any]) -> None:
    """Request the missing end of a partial file and write it; the whole file where the host returns only that."""
    done = partial.stat().st_size if partial.exists() and file.identity else 0
    file.length = -1
    request = file.request(f"{done}-" if done else "")
    with http_errors(file.client.options.timeout), file.client.http.stream(**request) as response:
        file.follow(response)
        body, first = response.iter_raw(), b""
        if response.status_code == 200:
            done, first = 0, next(body, b"")
            if not first.startswith(b"PK"):
                raise TransientError(f"a page of type {response.headers.get('Content-Type')} instead of the archive")
        elif response.status_code != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            reject(file, response)
        length = done + int(response.headers.get("Content-Length", 0))
        require_room(partial.parent, length - done, "the archive")
        file.identity = identity_of(response.headers)
        label.write_text(file.identity)
        shown.total, shown.n = length, done
        with partial.open("r+b" if done else "wb") as output:
            output.seek(done)
            output.write(first)
            shown.update(len(first))
            for chunk in body:
                output.write(chunk)
                shown.update(len(chunk))
        if partial.stat().st_size < length:
            raise TransientError(f"{partial.stat().st_size:,} bytes instead of {length:,}")
