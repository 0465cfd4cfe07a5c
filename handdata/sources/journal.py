"""The journal of fetched images, one receipt per image, and the stage's shards written from it.

A receipt is written before its image appears by rename. Therefore every stored image has a receipt, and a process that
is killed at any moment never fetches a finished image again; a receipt without its image is not finished. Every line
ends in a hash of its receipt: a line that was damaged counts as absent, and its image is fetched again.
"""

import errno
import hashlib
import json
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from handdata.errors import UserError
from handdata.files import make_folder, sha256_of, write_bytes
from handdata.readers import read_jsonl
from handdata.rows.parts import Part
from handdata.rows.schema import shard_schema
from handdata.rows.shards import KEY, SHARD_ROWS, shard_path, stored_key, write_table
from handdata.store.folder import Folder
from handdata.store.store import Store

SCHEMA = shard_schema("fetch")
_PUT = 10.0  # seconds; so many receipts may be lost to other machines where the store is not a folder
_CHECK = "check"  # last key of a line: first digits of the sha256 of the others


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
    """The receipts of a build, kept in `fetch/journal.jsonl`; a part has a journal of its own. Shared by threads."""

    def __init__(self, build: Path, part: Part | None = None, store: Store | None = None) -> None:
        self.path, self.store = journal_path(build, part), store or Folder(build)
        make_folder(self.path.parent)
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder, but a file is needed there: move it away")
        self._lock = threading.Lock()
        if part is None:
            join_journals(build, self.store)
        self.receipts, _ = read_receipts(build)
        own, damaged = _read(self.path)
        if damaged:
            _rewrite(self.path, own)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT)
        self._end = self.path.read_bytes().rfind(b"\n") + 1  # an incomplete last line is overwritten
        self._put = time.monotonic()

    def add(self, receipt: Receipt) -> None:
        """Write a receipt. The kernel has it when this returns, so that SIGKILL cannot lose it."""
        line = _line(receipt)
        with self._lock:
            written = os.pwrite(self._file, line, self._end)
            if written < len(line):  # the disk is full: the next line overwrites it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._end += written
            self.receipts[receipt.image_id] = receipt
            if time.monotonic() - self._put > _PUT:
                self.store.put(self.path)
                self._put = time.monotonic()

    def sync(self) -> None:
        os.fsync(self._file)
        self.store.put(self.path)

    def close(self) -> None:
        os.ftruncate(self._file, self._end)
        os.close(self._file)


def journal_path(build: Path, part: Part | None = None) -> Path:
    """Return the path of the journal of a build, or of one of its parts."""
    return build / "fetch" / ("journal.jsonl" if part is None else f"journal-{part.number}-of-{part.of}.jsonl")


def read_receipts(build: Path) -> tuple[dict[str, Receipt], int]:
    """Return the last receipt of each image, and the number of lines that cannot be read, an incomplete one aside."""
    receipts, damaged = _read(journal_path(build))
    for path in _part_journals(build):
        more, more_damaged = _read(path)
        receipts, damaged = receipts | more, damaged + more_damaged
    return receipts, damaged


def join_journals(build: Path, store: Store) -> None:
    """Move the receipts of all parts into the journal of the build. No part may be running."""
    parts = _part_journals(build)
    if parts:
        _rewrite(journal_path(build), read_receipts(build)[0])
        store.put(journal_path(build))
        store.remove(*parts)


def forget(build: Path, image_ids: set[str]) -> None:
    """Reduce the receipts of dropped images to that fact; hashes and sizes identify the photograph."""
    join_journals(build, Folder(build))
    receipts, _ = read_receipts(build)
    for image_id in image_ids & set(receipts):
        receipts[image_id] = dropped(image_id)
    if image_ids & set(receipts):
        _rewrite(journal_path(build), receipts)


def dropped(image_id: str) -> Receipt:
    """Return the receipt of an image that was dropped."""
    return Receipt(image_id, "", reason="dropped")


def finished(receipt: Receipt | None, key: str, path: Path, final_reasons: frozenset[str]) -> bool:
    """Return whether a receipt is valid: made from the same member and options, and its image has the same bytes."""
    if receipt is None or receipt.key != key:
        return False
    if receipt.reason is not None:
        return receipt.reason in final_reasons
    return path.is_file() and path.stat().st_size == receipt.bytes and sha256_of(path) == receipt.sha256


def write_shards(
    build: Path,
    image_ids: list[str],
    receipts: dict[str, Receipt],
    part: Part | None = None,
    store: Store | None = None,
) -> Counter[str]:
    """Write those shards of the stage `fetch` that changed; return the number of rows by reason of failure.

    `image_ids` are those of the whole build; of its shards, a part writes its own.
    """
    failed, store = Counter[str](), store or Folder(build)
    for shard, start in enumerate(range(0, len(image_ids), SHARD_ROWS)):
        if part is not None and not part.holds(shard):
            continue
        rows = [receipts[image_id] for image_id in image_ids[start : start + SHARD_ROWS]]
        failed.update(row.reason for row in rows if row.reason)
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        table = pa.table(columns, schema=SCHEMA)
        key = hashlib.sha256(json.dumps(columns).encode()).hexdigest()
        path = shard_path(build, "fetch", shard)
        if stored_key(path) != key:
            write_table(table.replace_schema_metadata({KEY: key}), path)
        store.put(path)
    for path in (build / "fetch").glob("*.parquet"):
        if path.stem.isdigit() and int(path.stem) * SHARD_ROWS >= len(image_ids):
            store.remove(path)  # of an earlier, longer manifest
    return failed


def _part_journals(build: Path) -> list[Path]:
    """Return the journals of parts, the latest last."""
    return sorted((build / "fetch").glob("journal-*-of-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)


def _read(path: Path) -> tuple[dict[str, Receipt], int]:
    """Return the last receipt of each image in one journal, and the number of lines that cannot be read."""
    try:
        lines = path.read_bytes().count(b"\n")
    except OSError:
        return {}, 0
    receipts = [receipt for value in read_jsonl(path) if (receipt := _receipt(value))]
    return {receipt.image_id: receipt for receipt in receipts}, max(0, lines - len(receipts))


def _rewrite(path: Path, receipts: dict[str, Receipt]) -> None:
    write_bytes(path, b"".join(map(_line, receipts.values())))


def _line(receipt: Receipt) -> bytes:
    pairs = {name: value for name, value in vars(receipt).items() if value is not None}
    return (json.dumps({**pairs, _CHECK: _check(pairs)}) + "\n").encode()


def _receipt(value: dict[str, Any]) -> Receipt | None:
    """Return the receipt of a line's value, None if it was damaged."""
    if value.pop(_CHECK, None) != _check(value):
        return None
    return Receipt(**value) if set(value) <= set(Receipt.__dataclass_fields__) else None


def _check(pairs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]
