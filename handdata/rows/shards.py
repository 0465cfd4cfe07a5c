"""Storage of a build's rows: shards of 256 rows in manifest order, the same number in every stage.

`landmarks/00003.parquet` holds the columns of the stage `landmarks` for rows 768 to 1,023. A shard appears by rename,
so a file that exists is complete. It is sealed: its metadata holds the sha256 of all its other bytes, which every
reader compares, so that a file that was damaged or changed counts as absent.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.files import whole_file
from handdata.rows.schema import shard_schema

SHARD_ROWS = 256
KEY = b"hand1000:key"  # metadata of a file: the sha256 of everything that decides its content
SOFTWARE = b"hand1000:software"  # metadata of a shard: versions of the packages that made it, as JSON
FINGERPRINT = b"hand1000:fingerprint"  # metadata of a shard: options and models that decided its content, as JSON

_SEAL = b"hand1000:seal"  # metadata of a file: the mark below, then the sha256 of the file with zeros in its place
_MARK = b"hand1000 sha256 "
_ZEROS = b"0" * 64


def image_path(build: Path, gesture: str, image_id: str) -> Path:
    """Return the path of a row's stored image."""
    return build / "images" / gesture / f"{image_id}.jpg"


def shard_path(build: Path, stage: str, shard: int) -> Path:
    """Return the path of a stage's shard, `<build>/<stage>/00003.parquet`."""
    return build / stage / f"{shard:05d}.parquet"


def shard_count(rows: int) -> int:
    """Return the number of shards of that many rows."""
    return -(-rows // SHARD_ROWS)


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a sealed Parquet file, whole or absent. The same table gives the same bytes."""
    metadata = {**(table.schema.metadata or {}), _SEAL: _MARK + _ZEROS}
    with whole_file(path) as partial:
        pq.write_table(table.replace_schema_metadata(metadata), partial, compression="zstd", **options)
        data = partial.read_bytes()
        start = data.rindex(_MARK) + len(_MARK)
        digest = hashlib.sha256(data).hexdigest().encode()
        partial.write_bytes(data[:start] + digest + data[start + len(digest) :])


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Return a sealed Parquet file; None if it is missing, damaged, was changed or lacks columns."""
    data = _sealed_bytes(path)
    if data is None:
        return None
    # read in this thread: a thread of Arrow that releases `data` when Python ends aborts the process
    table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(columns=columns, use_threads=False)
    metadata = {name: value for name, value in (table.schema.metadata or {}).items() if name != _SEAL}
    if columns is not None:
        if not set(columns) <= set(table.column_names):
            return None
        table = table.select(columns)
    return table.replace_schema_metadata(metadata or None)


def read_shard(build: Path, stage: str, shard: int, image_ids: list[str]) -> pa.Table | None:
    """Return a stage's shard; None if it is missing or damaged, or has other rows or columns."""
    table = read_table(shard_path(build, stage, shard))
    if table is None or not table.schema.equals(shard_schema(stage), check_metadata=False):
        return None
    return table if table["image_id"].to_pylist() == image_ids else None


def stored_key(path: Path) -> str | None:
    """Return the key in a sealed file's metadata, None without a key or an undamaged file."""
    data = _sealed_bytes(path)
    stored = None if data is None else (pq.read_metadata(pa.BufferReader(data)).metadata or {}).get(KEY)
    return stored.decode() if stored else None


def _sealed_bytes(path: Path) -> bytes | None:
    """Return the content of a sealed file, None if it cannot be read or its hash is another one."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    start = data.rfind(_MARK) + len(_MARK)
    found = data[start : start + len(_ZEROS)]
    digest = hashlib.sha256(data[:start])
    digest.update(_ZEROS)
    digest.update(memoryview(data)[start + len(_ZEROS) :])
    return data if start >= len(_MARK) and digest.hexdigest().encode() == found else None
