"""Verification of a build: every file that it relies on is read again, and damaged ones are listed.

Nothing is changed here. The run that follows counts a damaged file as absent and makes it again; only a manifest and
decisions cannot be made again, and models are fetched by other commands: these end the run with a sentence.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from handdata.builds.folder import BuildFolder
from handdata.dataset.checksums import CHECKSUMS, read_checksums
from handdata.errors import UserError
from handdata.files import read_sealed_json, sha256_of
from handdata.rows import decisions
from handdata.rows.manifest import read_manifest
from handdata.rows.shards import SHARD_ROWS, image_path, read_shard, shard_count, shard_path
from handdata.sources.journal import journal_path, read_receipts
from handdata.stages import STAGES, assemble

_SHOWN = 10  # damaged files that are listed by name


@dataclass
class Verified:
    """The files that were read, and those among them that are damaged or missing."""

    read: Counter[str] = field(default_factory=Counter)  # number of files by kind
    damaged: list[str] = field(default_factory=list)

    def add(self, kind: str, path: Path, whole: bool) -> None:
        self.read[kind] += 1
        self.damaged += [] if whole else [str(path)]


def verify(build: BuildFolder) -> Verified:
    """Read the files of a build. Raises `UserError` for a damaged manifest and for lost decisions."""
    found = Verified()
    decisions.replay(build.path)
    for name in ("run.json", "assembled.json"):
        if (build.path / name).exists():
            found.add("records", build.path / name, read_sealed_json(build.path / name) is not None)
    if (build.path / "manifest.parquet").exists():
        _images_and_shards(build.path, found)
    if (build.path / "dataset").exists():
        _dataset(build.path, found)
    return found


def verify_model(folder: Path, option: str) -> None:
    """Compare the files of a model in the Hub's cache with their hashes, which are their names there.

    Raises `UserError` for a damaged one. Files of other folders have no such names, and are left out.
    """
    for path in sorted(folder.rglob("*")):
        blob = path.resolve()
        if blob.is_file() and blob.parent.name == "blobs" and not _true_to_its_name(blob):
            raise UserError(f"{option}: the model file {blob} is damaged: delete it, and it is fetched again")


def report(found: Verified) -> str:
    """Return the result as lines for people."""
    counts = ", ".join(f"{count:,} {kind}" for kind, count in found.read.items())
    if not found.damaged:
        return f"read again: {counts or 'nothing'}; none is damaged"
    more = len(found.damaged) - _SHOWN
    lines = [f"read again: {counts}; {len(found.damaged):,} are damaged or missing, and are made again:"]
    return "\n".join([*lines, *found.damaged[:_SHOWN], *([f"and {more:,} more"] if more > 0 else [])])


def _images_and_shards(build: Path, found: Verified) -> None:
    rows = read_manifest(build, columns=["image_id", "gesture"]).to_pylist()
    found.add("manifest", build / "manifest.parquet", True)
    receipts, damaged = read_receipts(build)
    if journal_path(build).exists():
        found.add("journal", journal_path(build), not damaged)
    for row in rows:
        receipt, path = receipts.get(row["image_id"]), image_path(build, row["gesture"], row["image_id"])
        if receipt and receipt.sha256:
            found.add("images", path, path.is_file() and sha256_of(path) == receipt.sha256)
    ids = [row["image_id"] for row in rows]
    for stage in (stage.columns for stage in STAGES if stage.columns):
        for shard in range(shard_count(len(ids))):
            path = shard_path(build, stage, shard)
            if path.exists():
                whole = read_shard(build, stage, shard, ids[shard * SHARD_ROWS :][:SHARD_ROWS]) is not None
                found.add("shards", path, whole)


def _dataset(build: Path, found: Verified) -> None:
    folder, summary = build / "dataset", assemble.read_summary(build)
    if summary is None:
        return
    changed = assemble.changed_files(build, summary)
    names = {CHECKSUMS} if CHECKSUMS in changed else {CHECKSUMS, *read_checksums(folder / CHECKSUMS)}
    for name in sorted(names):
        found.add("files of the dataset", folder / name, name not in changed)


def _true_to_its_name(blob: Path) -> bool:
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        return sha256_of(blob) == blob.name
    if re.fullmatch("[0-9a-f]{40}", blob.name):  # a small file: git's hash of it
        data = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == blob.name
    return True
