"""The manifest: one row per selected image, spares too, with everything that is needed to fetch it anywhere."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.errors import UserError
from handdata.rows.oddities import Oddities
from handdata.rows.shards import SHARD_ROWS


@dataclass
class Manifest:
    """A manifest and what was found on the way."""

    table: pa.Table
    odd: Oddities
    candidates: int  # annotated images of the gestures
    shortfalls: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceFacts:
    """What a manifest says of one source: enough to fetch from it elsewhere and to notice that it was replaced."""

    places: tuple[str, ...]
    length: int  # bytes of the archive, 0 for a folder
    identities: dict[str, str]  # by place: ETag, or size and time


def read_manifest(build: Path, shard: int | None = None, columns: list[str] | None = None) -> pa.Table:
    """Return the manifest's rows, or those of one shard, in manifest order."""
    table = pq.read_table(build / "manifest.parquet", columns=columns)
    return table if shard is None else table.slice(shard * SHARD_ROWS, SHARD_ROWS)


def source_facts(schema: pa.Schema) -> dict[str, SourceFacts]:
    """Return what a manifest's file says of its sources, by the names in its column `source`."""
    stored = (schema.metadata or {}).get(b"hand1000:sources")
    if stored is None:
        raise UserError("the manifest says nothing of its sources: it was not made by `handdata select`")
    return {
        name: SourceFacts(tuple(one["places"]), one["length"], one["identities"])
        for name, one in json.loads(stored).items()
    }
