"""Publish an assembled dataset to the Hub or to a folder: whole or not at all, and read back afterwards."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handdata.dataset.checksums import CHECKSUMS, checksums_text, describe_file, read_checksums
from handdata.errors import Unfinished, UserError
from handdata.files import require_writable_folder
from handdata.stages import assemble

_PLACEHOLDER = "USER/NAME"  # in the card's example


@dataclass(frozen=True)
class Payload:
    """The files to publish: by path, a file of the build or bytes made for this place; and what they must be."""

    files: dict[str, Path | bytes]
    checksums: dict[str, dict[str, Any]]  # path: bytes, sha256 and, of a Parquet file in data/, rows

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.checksums.values())

    @property
    def rows(self) -> int:
        return sum(entry.get("rows", 0) for entry in self.checksums.values())


@dataclass(frozen=True)
class Published:
    """Where it is now."""

    place: str
    revision: str | None  # the commit, on the Hub
    rows: int
    files: int
    bytes: int
    remark: str = ""


def publish(
    build: Path, to: str, private: bool = False, revision: str | None = None, purge_history: bool = False
) -> Published:
    """Publish a build's dataset to `hf:USER/NAME` or a folder; return where it is.

    Raises `UserError` for what the user can mend, `Unfinished` where a server or a disk does not go along; then
    nothing is half-published, and the same command goes on where it stopped.
    """
    from handdata.builds import upload as hub

    if to.startswith("hf:"):
        name = hub.repository_name(to)
        return hub.publish(payload(build, name), name, private, revision, purge_history)
    for option, given in (("--private", private), ("--revision", revision), ("--purge-history", purge_history)):
        if given:
            raise UserError(f"{option} is for the Hub: {to} is a folder (a place on the Hub is written hf:USER/NAME)")
    return _to_folder(payload(build, Path(to).absolute().name), Path(to))


def payload(build: Path, name: str) -> Payload:
    """Return the files of a build's dataset for a place of that name, their hashes checked.

    Raises `UserError` if there is none, it is older than the build, or a file was changed by hand.
    """
    from handdata.builds.build import open_recipe

    folder = build / "dataset"
    if not assemble.is_current(build, open_recipe(build)):
        state = "older than the build's rows" if folder.is_dir() else "not there yet"
        raise UserError(f"the dataset of {build} is {state}: run `handdata assemble {build}`")
    checksums = read_checksums(folder / CHECKSUMS)
    files: dict[str, Path | bytes] = {}
    for path, entry in checksums.items():
        if describe_file(folder, path).sha256 != entry["sha256"]:
            raise UserError(f"{folder / path} was changed after it was made: run `handdata assemble {build}`")
        files[path] = folder / path
    card = (folder / "README.md").read_text(encoding="utf-8").replace(_PLACEHOLDER, name).encode()
    checksums["README.md"] = {"bytes": len(card), "sha256": hashlib.sha256(card).hexdigest()}
    listing = checksums_text(checksums).encode()
    own = {"bytes": len(listing), "sha256": hashlib.sha256(listing).hexdigest()}
    return Payload({**files, "README.md": card, CHECKSUMS: listing}, {**checksums, CHECKSUMS: own})


def _to_folder(what: Payload, folder: Path) -> Published:
    """Put the files in a folder: written beside it, read back, and moved to its place as a whole."""
    require_writable_folder(folder.absolute().parent, "--to: the folder above")
    new, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("partial", "old"))
    if old.is_dir() and not folder.exists():
        old.rename(folder)  # an earlier run was killed between the two renames
    _require_ours(folder)
    free = shutil.disk_usage(folder.absolute().parent).free
    if free < what.bytes:
        raise Unfinished(f"--to {folder} needs {what.bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free: make room")
    shutil.rmtree(new, ignore_errors=True)
    try:
        for path, source in what.files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                (new / path).write_bytes(source)
            else:
                shutil.copyfile(source, new / path)
        _read_back(new, what)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return Published(str(folder), None, what.rows, len(what.files), what.bytes)


def _require_ours(folder: Path) -> None:
    """Refuse a folder with anything in it that `publish` did not write."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--to {folder} is a file: give a folder")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    listed = read_checksums(folder / CHECKSUMS) if CHECKSUMS in there else {}
    foreign = sorted(there - set(listed) - {CHECKSUMS})
    if foreign:
        raise UserError(f"--to {folder} holds '{foreign[0]}', which publish did not write: give an empty folder")


def _read_back(folder: Path, what: Payload) -> None:
    import pyarrow.parquet as pq

    for path, entry in what.checksums.items():
        if describe_file(folder, path).sha256 != entry["sha256"]:
            raise Unfinished(f"{path} does not read back as it was written: the disk is failing")
        if "rows" in entry:
            rows = pq.read_metadata(folder / path).num_rows
            assert rows == entry["rows"], f"{path} has {rows} rows, {entry['rows']} were written"


def name_is_valid(name: str) -> bool:
    """Tell whether USER/NAME is a name that the Hub takes."""
    part = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
    return bool(re.fullmatch(f"{part}/{part}", name)) and "--" not in name and ".." not in name and len(name) <= 96
