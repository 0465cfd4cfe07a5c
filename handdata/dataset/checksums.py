"""The list of a published dataset's files, `checksums.json`: size and sha256 of each, and the rows of Parquet files."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.files import sha256_of, write_text

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
    with suppress(OSError, ValueError, KeyError, TypeError):
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] == FORMAT:
            return dict(table["files"])
    raise UserError(f"{path} is not a list of files that handdata wrote: publish to another place")
