"""Storage of a build's rows: shards of 256 rows in manifest order, the same number in every stage.

`landmarks/00003.parquet` holds the columns of the stage `landmarks` for rows 768 to 1,023. A shard appears by rename,
so a file that exists is complete.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.files import whole_file

SHARD_ROWS = 256
KEY = b"hand1000:key"  # metadata of a file: the sha256 of everything that decides its content
FINGERPRINT = b"hand1000:fingerprint"  # metadata of a shard: options and models that decided its content, as JSON


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
    """Write a Parquet file, whole or absent. The same table gives the same bytes."""
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd", **options)


def stored_key(path: Path) -> str | None:
    """Return the key in a Parquet file's metadata, None without a file or a key."""
    stored = (pq.read_metadata(path).metadata or {}).get(KEY) if path.exists() else None
    return stored.decode() if stored else None
