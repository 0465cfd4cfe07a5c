"""The list of a published dataset's files, `checksums.json`: size and sha256 of each, and the rows of Parquet files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.files import sha256_of, write_text
from handdata.readers import read_json

FORMAT = "hand1000 dataset 1"
CHECKSUMS = "checksums.json"  # its presence marks a folder or a repository as one that `publish` wrote


@dataclass(frozen=True)
class File:
    """One file of the published dataset."""

    path: str  # relative to the dataset's folder
    bytes: int
    sha256: str
    rows: int | None = None  # of a Parquet file in data/


def describe_file(folder: Path, path: str, rows: int | None = None) -> File:
    """Return size and sha256 of a file."""
    return File(path, (folder / path).stat().st_size, sha256_of(folder / path), rows)


def write_checksums(folder: Path, data: list[File]) -> None:
    """List every file of a folder in its `checksums.json`. `data` are the Parquet files, with their rows."""
    rows = {file.path: file.rows for file in data}
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    entries = {path: asdict(describe_file(folder, path, rows.get(path))) for path in paths}
    listed = {
        path: {name: value for name, value in entry.items() if name != "path" and value is not None}
        for path, entry in entries.items()
    }
    write_text(folder / CHECKSUMS, checksums_text(listed))


def checksums_text(files: dict[str, dict[str, Any]]) -> str:
    """Return the content of `checksums.json`."""
    return json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n"


def read_checksums(path: Path) -> dict[str, dict[str, Any]]:
    """Return the files that a `checksums.json` lists. Raises `UserError` if handdata did not write it."""
    table = read_json(path) or {}
    files: dict[str, dict[str, Any]] = table.get("files")  # type: ignore[assignment]
    if table.get("format") != FORMAT or not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise UserError(
            f"{path} is damaged, or not a list of files that handdata wrote: publish the dataset again, or to another"
            " place"
        )
    return files


def damaged(folder: Path, quick: bool = False, under: str = "") -> list[str]:
    """Return the files of a dataset's folder that are not as its `checksums.json` lists them.

    `quick` compares sizes only; `under` is the beginning of the paths that are compared. Raises `UserError` if that
    list is missing or handdata did not write it.
    """
    listed = read_checksums(folder / CHECKSUMS)
    return [path for path in listed if path.startswith(under) and not _same(folder / path, listed[path], quick)]


def _same(path: Path, entry: dict[str, Any], quick: bool) -> bool:
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return quick or sha256_of(path) == entry["sha256"]


def _is_entry(entry: Any) -> bool:
    """Return whether an entry of the list has its keys."""
    kinds = (("bytes", int), ("sha256", str))
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds)
