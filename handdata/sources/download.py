"""Download whole archives, for hosts that serve no parts of files; what is there already is not downloaded again."""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handdata.errors import Unfinished
from handdata.sources.http import Client, Far, Refused, Trouble, address, explain, identity_of, if_range
from handdata.sources.places import Archive, Sources, is_remote


def download_all(sources: Sources, folder: Path, client: Client, progress: bool = True) -> Sources:
    """Bring every far archive into a folder; return the sources with these files as their first places.

    Raises `Unfinished` where no place gives an archive; the next call goes on where this one stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = tuple(_local(archive, folder, client, progress) for archive in sources.images)
    return Sources(_local(sources.annotations, folder, client, progress), images)


def download(far: Far, path: Path, progress: bool = True) -> None:
    """Write a whole far file to a path, going on where an earlier download stopped if its place allows it.

    Raises `Trouble` after all tries, `Refused` where another try is of no use.
    """
    from tqdm import tqdm

    partial = path.with_name(f".{path.name}.download")
    label = partial.with_name(f"{partial.name}.identity")  # of the file that the partial one is the beginning of
    far.identity = label.read_text() if label.exists() else ""
    with tqdm(desc=path.name, unit="B", unit_scale=True, disable=None if progress else True) as bar:
        for attempt in range(far.client.options.attempts):
            try:
                _append(far, partial, label, bar)
                partial.replace(path)
                label.unlink(missing_ok=True)
                return
            except Trouble as trouble:
                last = trouble
            if far.client.pause(attempt, last):
                break
    raise last


def _local(archive: Archive, folder: Path, client: Client, progress: bool) -> Archive:
    if not is_remote(archive.places[0]):
        return archive
    name = Path(urlsplit(archive.places[0]).path).name
    path = folder / f"{hashlib.sha256(archive.places[0].encode()).hexdigest()[:8]}-{name}"  # other hosts, same names
    troubles = []
    for place in () if path.is_file() else archive.places:
        try:
            download(Far(place, *address(place), client=client), path, progress)
            break
        except (Trouble, Refused) as error:
            troubles.append(f"{place}: {error}")
    else:
        if not path.is_file():
            raise Unfinished(f"{path.name} cannot be downloaded ({'; '.join(troubles)}); the same command goes on")
    return dataclasses.replace(archive, places=(str(path.absolute()), *archive.places))


def _append(far: Far, partial: Path, label: Path, bar: Any) -> None:
    """Ask for what a partial file lacks and write it; from the start where the place gives the whole only."""
    have = partial.stat().st_size if partial.exists() and far.identity else 0
    far.length = -1
    headers = {"Range": f"bytes={have}-", **if_range(far)} if have else {}
    with far.client.request(far, headers) as response:
        body, whole = response.iter_raw(), response.status_code == 200
        if whole:
            have, first = 0, next(body, b"")
        elif response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            first = b""
        else:
            explain(far, response)
        if whole and not first.startswith(b"PK"):
            raise Trouble(f"a page of type {response.headers.get('Content-Type')} instead of the archive")
        length = have + int(response.headers.get("Content-Length", 0))
        _require_space(partial.parent, length - have)
        label.write_text(identity_of(response.headers))
        far.identity = identity_of(response.headers)
        bar.total, bar.n = length, have
        with partial.open("r+b" if have else "wb") as file:
            file.seek(have)
            file.write(first)
            bar.update(len(first))
            for chunk in body:
                file.write(chunk)
                bar.update(len(chunk))
        if partial.stat().st_size < length:
            raise Trouble(f"{partial.stat().st_size:,} bytes instead of {length:,}")


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Unfinished(f"{folder} has {free / 1e9:,.2f} GB free, the archive needs {needed / 1e9:,.2f} GB more")
