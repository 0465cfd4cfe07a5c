"""The journal of fetched images, one receipt per image, and the stage's shards written from it.

A receipt is written before its image appears by rename. Therefore every stored image has a receipt, and a process that
is killed at any moment never fetches a finished image again; a receipt without its image is not finished.
"""

import errno
import hashlib
import json
import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from handdata.rows.schema import STAGE_COLUMNS
from handdata.rows.shards import KEY, SHARD_ROWS, shard_path, stored_key, write_table

SCHEMA = pa.schema([("image_id", pa.string()), *STAGE_COLUMNS["fetch"], ("reason", pa.string())])


@dataclass(frozen=True)
class Receipt:
    """The result of fetching one image."""

    image_id: str
    key: str  # hash of everything that decides the stored bytes: the member's content and the image options
    sha256: str | None = None
    bytes: int | None = None  # size of the stored file
    orig_width: int | None = None
    orig_height: int | None = None
    reason: str | None = None
    detail: str | None = None  # for people
    converted: str | None = None  # changes of the colours, in the words of `pixels.to_rgb`


class Journal:
    """The receipts of a build, kept in `fetch/journal.jsonl`. Shared by threads."""

    def __init__(self, build: Path) -> None:
        self.path = build / "fetch" / "journal.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT)
        whole = self.path.read_bytes()
        self._end = whole.rfind(b"\n") + 1  # an incomplete last line is overwritten
        self.receipts: dict[str, Receipt] = {}
        for line in whole[: self._end].splitlines():
            receipt = Receipt(**json.loads(line))
            self.receipts[receipt.image_id] = receipt

    def add(self, receipt: Receipt) -> None:
        """Write a receipt. The kernel has it when this returns, so that SIGKILL cannot lose it."""
        pairs = {name: value for name, value in vars(receipt).items() if value is not None}
        line = (json.dumps(pairs) + "\n").encode()
        with self._lock:
            written = os.pwrite(self._file, line, self._end)
            if written < len(line):  # the disk is full: the next line overwrites it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._end += written
            self.receipts[receipt.image_id] = receipt

    def sync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        os.ftruncate(self._file, self._end)
        os.close(self._file)


def finished(receipt: Receipt | None, key: str, path: Path, final_reasons: frozenset[str]) -> bool:
    """Return whether a receipt is valid: made from the same member and options, with its image stored completely."""
    if receipt is None or receipt.key != key:
        return False
    if receipt.reason is not None:
        return receipt.reason in final_reasons
    return path.is_file() and path.stat().st_size == receipt.bytes


def write_shards(build: Path, image_ids: list[str], receipts: dict[str, Receipt]) -> Counter[str]:
    """Write those shards of the stage `fetch` that changed; return the number of rows by reason of failure."""
    failed: Counter[str] = Counter()
    for shard, start in enumerate(range(0, len(image_ids), SHARD_ROWS)):
        rows = [receipts[image_id] for image_id in image_ids[start : start + SHARD_ROWS]]
        failed.update(row.reason for row in rows if row.reason)
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        table = pa.table(columns, schema=SCHEMA)
        key = hashlib.sha256(json.dumps(columns).encode()).hexdigest()
        path = shard_path(build, "fetch", shard)
        if stored_key(path) != key:
            write_table(table.replace_schema_metadata({KEY: key}), path)
    for path in (build / "fetch").glob("*.parquet"):
        if path.stem.isdigit() and int(path.stem) * SHARD_ROWS >= len(image_ids):
            path.unlink()  # of an earlier, longer manifest
    return failed
