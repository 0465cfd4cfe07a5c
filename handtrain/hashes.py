"""The sha256 of large files that rarely change, kept from run to run by path, size and times.

A base model of 4 GB takes seconds to hash, and every training and generation asks for its hash.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from handdata.assets import cache_folder
from handdata.errors import UserError
from handdata.files import read_sealed_json, sha256_of, write_sealed_json

SMALLEST = 16 * 2**20  # bytes; smaller files are hashed every time, which takes 10 ms
_SETTLED = 2.0  # seconds without a change before a hash is kept: two changes within a clock tick have the same time


def known_sha256(path: Path) -> str:
    """Return the sha256 of a file as hex digits, for a large unchanged file the one that was computed before.

    A file is unchanged if its resolved path, inode, size and times of change are. A change of the disk below the file
    system is not noticed; the check of a trained model reads all its bytes instead. Hashes are kept in the folder
    `hashes` of the cache; where that cannot be written they are computed every time.
    """
    path = path.resolve()
    before = _state(path)
    if before["size"] < SMALLEST:
        return sha256_of(path)
    kept = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    record = read_sealed_json(kept)
    if record is not None and record.items() >= before.items():
        return str(record["sha256_of_file"])
    sha256 = sha256_of(path)
    newest = max(before["modified_ns"], before["changed_ns"])
    if _state(path) == before and time.time_ns() - newest > _SETTLED * 1e9:
        with suppress(OSError, UserError):
            write_sealed_json(kept, {**before, "sha256_of_file": sha256})
    return sha256


def _state(path: Path) -> dict[str, Any]:
    entry = path.stat()
    return {
        "path": str(path),
        "inode": entry.st_ino,
        "size": entry.st_size,
        "modified_ns": entry.st_mtime_ns,
        "changed_ns": entry.st_ctime_ns,
    }
