"""The manifest: one row per selected image, including spares, with all that is needed to fetch it on any machine."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from handdata.errors import UserError
from handdata.rows.oddities import Oddities
from handdata.rows.schema import MANIFEST
from handdata.rows.shards import SHARD_ROWS, read_table

SOURCES = b"hand1000:sources"  # metadata of a manifest: the facts on its sources, as JSON


@dataclass
class Manifest:
    """A new manifest, with the irregularities of its source and the images that it lacks."""

    table: pa.Table
    odd: Oddities
    candidates: int  # number of annotated images of the gestures
    shortfalls: dict[tuple[str, str], int] = field(default_factory=dict)  # number of missing images by gesture, split

    def notes(self) -> dict[str, Any]:
        """Return the entry `selection` of run.json."""
        lacking = [{"gesture": g, "split": s, "lacking": count} for (g, s), count in self.shortfalls.items()]
        odd = {"odd": dict(self.odd.counts), "examples": self.odd.examples}
        return {"candidates": self.candidates, **odd, "shortfalls": lacking}


@dataclass(frozen=True)
class SourceFacts:
    """A manifest's entry of one source: enough to fetch from it elsewhere and to notice that it was replaced."""

    places: tuple[str, ...]
    length: int  # bytes of the archive, 0 for a folder
    identities: dict[str, str]  # by place: ETag, or size and time


def read_manifest(build: Path, shard: int | None = None, columns: list[str] | None = None) -> pa.Table:
    """Return the manifest's rows, or those of one shard, in manifest order.

    Raises `UserError` if it is missing or damaged: no command can make it again for sure, since the source may change.
    """
    path = build / "manifest.parquet"
    table = read_table(path)
    if table is None and not path.exists():
        raise UserError(f"{path} does not exist: run `handdata select {build}` first")
    if table is None or not set(MANIFEST.names) <= set(table.column_names):
        raise UserError(
            f"{path} is damaged: restore it from a copy, or delete it and run the command that started this build,"
            " which chooses the images again"
        )
    table = table if columns is None else table.select(columns)
    return table if shard is None else table.slice(shard * SHARD_ROWS, SHARD_ROWS)


def source_facts(schema: pa.Schema) -> dict[str, SourceFacts]:
    """Return the facts on a manifest's sources, by their names in the column `source`.

    Raises `UserError` if the metadata of the manifest's file lacks them.
    """
    stored = (schema.metadata or {}).get(SOURCES)
    if stored is None:
        raise UserError("the manifest has no entry for its sources: it was not made by `handdata select`")
    return {
        name: SourceFacts(tuple(facts["places"]), facts["length"], facts["identities"])
        for name, facts in json.loads(stored).items()
    }
