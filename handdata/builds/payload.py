"""The files that `publish` sends for a build's dataset, with their sizes and hashes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handdata.builds.folder import BuildFolder
from handdata.dataset import pairs
from handdata.dataset.checksums import CHECKSUMS, checksums_text, read_checksums
from handdata.errors import UserError
from handdata.stages import assemble

_PLACEHOLDER = "USER/NAME"  # in the card's example


@dataclass(frozen=True)
class Payload:
    """The files to publish, and the sizes and hashes that they must have at the destination."""

    files: dict[str, Path | bytes]  # by path: a file of the build, or bytes written for this place
    checksums: dict[str, dict[str, Any]]  # by path: bytes, sha256 and, of a Parquet file in data/, rows

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.checksums.values())

    @property
    def rows(self) -> int:
        return sum(entry.get("rows", 0) for entry in self.checksums.values())


@dataclass(frozen=True)
class Published:
    """A published dataset."""

    place: str  # the folder, or the URL on the Hub
    revision: str | None  # the commit, on the Hub
    rows: int
    files: int
    bytes: int
    remark: str = ""


def payload(source: BuildFolder | Path, name: str) -> Payload:
    """Return the files of a build's or of drawn pairs' dataset for a place of that name, their hashes checked.

    Raises `UserError` if the dataset is missing or older than the build, or a file was changed by hand.
    """
    folder = pairs.assemble(source) if isinstance(source, Path) else _assembled(source)
    checksums = read_checksums(folder / CHECKSUMS)
    files: dict[str, Path | bytes] = {path: folder / path for path in checksums}
    card = (folder / "README.md").read_text(encoding="utf-8").replace(_PLACEHOLDER, name).encode()
    checksums["README.md"] = _described(card)
    listing = checksums_text(checksums).encode()
    checksums[CHECKSUMS] = _described(listing)
    return Payload({**files, "README.md": card, CHECKSUMS: listing}, checksums)


def _assembled(build: BuildFolder) -> Path:
    """Return the folder of a build's dataset, whose files are whole and current."""
    folder = build.path / "dataset"
    summary, remedy = assemble.read_summary(build.path), f"run `handdata assemble {build.path}`"
    if summary is None or not folder.is_dir():
        raise UserError(f"the dataset of {build.path} is not assembled yet: {remedy}")
    changed = assemble.changed_files(build.path, summary)
    if changed:
        raise UserError(f"{folder / changed[0]} was changed after it was made: {remedy}")
    if not assemble.is_current(build.path, build.recipe):
        raise UserError(f"the dataset of {build.path} is older than the build's rows: {remedy}")
    return folder


def _described(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
