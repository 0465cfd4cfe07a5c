"""What has been fetched: a journal of receipts, one line per image, and the stage's shards made from it.

A receipt is written before its image appears by rename. So an image that is there has a receipt, and a process that is
killed at any moment never fetches a finished image again; a receipt without its image is not finished.
"""

import errno
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from handdata.rows.schema import STAGE_COLUMNS
from handdata.rows.shards import KEY, SHARD_ROWS, image_path, shard_path, stored_key, write_table

SCHEMA = pa.schema([("image_id", pa.string()), *STAGE_COLUMNS["fetch"], ("reason", pa.string())])


@dataclass(frozen=True)
class Receipt:
    """What became of one image."""

    image_id: str
    key: str  # what decides the stored bytes: the member's content and the image options
    sha256: str | None = None
    bytes: int | None = None  # of the stored file
    orig_width: int | None = None
    orig_height: int | None = None
    reason: str | None = None
    detail: str | None = None  # for people: what was found instead


class Journal:
    """The receipts of a build, kept in `fetch/journal.jsonl`. Lines are added by several threads."""

    def __init__(self, build: Path) -> None:
        self.path = build / "fetch" / "journal.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT)
        whole = self.path.read_bytes()
        self._end = whole.rfind(b"\n") + 1  # a last line that was broken off is overwritten
        self.receipts: dict[str, Receipt] = {}
        for line in whole[: self._end].splitlines():
            receipt = Receipt(**json.loads(line))
            self.receipts[receipt.image_id] = receipt

    def add(self, receipt: Receipt) -> None:
        """Write a receipt; in the kernel's hands when this returns, so that SIGKILL cannot lose it."""
        pairs = {name: value for name, value in vars(receipt).items() if value is not None}
        line = (json.dumps(pairs) + "\n").encode()
        with self._lock:
            written = os.pwrite(self._file, line, self._end)
            if written < len(line):  # the disk is full: what follows begins at the same place
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._end += written
            self.receipts[receipt.image_id] = receipt

    def sync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        os.ftruncate(self._file, self._end)
        os.close(self._file)


def finished(receipt: Receipt | None, key: str, path: Path, final_reasons: frozenset[str]) -> bool:
    """Tell whether a receipt still holds: made of the same member and options, and its image there in full."""
    if receipt is None or receipt.key != key:
        return False
    if receipt.reason is not None:
        return receipt.reason in final_reasons
    try:
        return path.stat().st_size == receipt.bytes
    except FileNotFoundError:
        return False


def write_shards(build: Path, image_ids: list[str], found: dict[str, Receipt]) -> Counter[str]:
    """Write the shards of the stage `fetch`, those that changed; return the rows by reason of failure."""
    failed: Counter[str] = Counter()
    for shard, start in enumerate(range(0, len(image_ids), SHARD_ROWS)):
        receipts = [found[image_id] for image_id in image_ids[start : start + SHARD_ROWS]]
        failed.update(receipt.reason for receipt in receipts if receipt.reason)
        columns = {name: [getattr(receipt, name) for receipt in receipts] for name in SCHEMA.names}
        table = pa.table(columns, schema=SCHEMA)
        key = hashlib.sha256(json.dumps(columns).encode()).hexdigest()
        path = shard_path(build, "fetch", shard)
        if stored_key(path) != key:
            write_table(table.replace_schema_metadata({KEY: key}), path)
    for path in (build / "fetch").glob("*.parquet"):
        if path.stem.isdigit() and int(path.stem) * SHARD_ROWS >= len(image_ids):
            path.unlink()  # of a manifest that was longer
    return failed


def remove_images(build: Path, gestures: dict[str, str], dropped: Iterable[str]) -> None:
    """Remove the images of dropped rows; `gestures` is the gesture by image id."""
    for image_id in dropped:
        image_path(build, gestures[image_id], image_id).unlink(missing_ok=True)
