"""The manifest: one row per selected image, including spares, with all that is needed to fetch it on any machine."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.errors import UserError
from handdata.rows.foreign import checked_rows
from handdata.rows.oddities import Oddities
from handdata.rows.schema import MANIFEST
from handdata.rows.shards import SHARD_ROWS, read_table
from handdata.web.urls import is_remote, public_url, require_url

SOURCES, IMAGE = b"hand1000:sources", b"hand1000:image"  # metadata of the file: SourceFacts by name, image options
_MOST_ROWS = 4_000_000  # of a manifest; HaGRID has 1.1 million images


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

    places: tuple[str, ...]  # without passwords and signatures
    length: int  # bytes of the archive, 0 for a folder
    identities: dict[str, str]  # by place: ETag, or size and time
    directory: str = ""  # sha256 of the central directory; empty for a folder and in manifests of older versions


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


def read_foreign(path: Path, option: str = "--manifest") -> pa.Table:
    """Return another person's manifest with exactly the manifest's columns and metadata, its URLs in public form.

    Raises `UserError` for a file that is not a manifest, and for the first row with a value that no manifest has.
    """
    name = f"{option} {path}"
    if not path.is_file():
        raise UserError(f"{name} is not a file: name the manifest.parquet of a build or a dataset")
    try:
        if pq.read_metadata(path).num_rows > _MOST_ROWS:
            raise ValueError(f"it states more than {_MOST_ROWS:,} rows")
        table = pq.read_table(path, page_checksum_verification=True)
        table.validate(full=True)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{name} cannot be read as Parquet ({cause}): download it again") from None
    metadata = table.schema.metadata or {}
    rows = checked_rows(table, name)
    facts = source_facts(table.schema, name)
    known = rows["source"].to_pylist()
    lacking = next((source for source in known if source not in facts), None)
    if lacking is not None:
        raise UserError(
            f"{name} names no place for the source '{public_url(lacking)[:120]}', since its images came from a local"
            " file: use a manifest that was made from URLs"
        )
    sources = rows.schema.get_field_index("source")
    rows = rows.set_column(sources, "source", pa.array(map(public_url, known), pa.string()))
    kept = {SOURCES: _as_json(facts), **({IMAGE: metadata[IMAGE]} if IMAGE in metadata else {})}
    return rows.replace_schema_metadata(kept)


def image_options(schema: pa.Schema, name: str = "the manifest") -> dict[str, Any]:
    """Return how a manifest's images are stored, as the recipe's table `[image]`. Raises `UserError`."""
    stored = _json(schema, IMAGE, name)
    return {} if stored is None else stored


def source_facts(schema: pa.Schema, name: str = "the manifest") -> dict[str, SourceFacts]:
    """Return the facts on a manifest's sources, by their names in the column `source`.

    Raises `UserError` if the metadata of the manifest's file lacks them, or holds something else.
    """
    stored = _json(schema, SOURCES, name)
    if stored is None:
        raise UserError(
            f"{name} names no place of its archives: its images came from local files, or it was not made by"
            " `handdata select`; use a manifest that was made from URLs"
        )
    return {public_url(source): _facts(facts, source, name) for source, facts in stored.items()}


def public_metadata(schema: pa.Schema) -> dict[bytes, bytes]:
    """Return a manifest's metadata for other people: image options, and the sources that have URLs, with only these."""
    metadata = schema.metadata or {}
    kept = {key: metadata[key] for key in (IMAGE,) if key in metadata}
    facts = {}
    for name, source in (source_facts(schema) if SOURCES in metadata else {}).items():
        places = tuple(filter(is_remote, source.places))
        if places:
            identities = {place: identity for place, identity in source.identities.items() if place in places}
            facts[name] = SourceFacts(places, source.length, identities, source.directory)
    return kept | ({SOURCES: _as_json(facts)} if facts else {})


def _as_json(facts: dict[str, SourceFacts]) -> bytes:
    return json.dumps({name: asdict(source) for name, source in facts.items()}).encode()


def _json(schema: pa.Schema, key: bytes, name: str) -> dict[str, Any] | None:
    """Return a JSON object of a file's metadata, None without it."""
    stored = (schema.metadata or {}).get(key)
    if stored is None:
        return None
    try:
        value = json.loads(stored)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{name} is damaged (its metadata '{key.decode()}' is not a JSON object): download it again")
    return value


def _facts(facts: Any, source: str, name: str) -> SourceFacts:
    """Return one source's facts. Raises `UserError` for other keys and types than ours, and for malformed URLs."""
    wrong = UserError(f"{name} is damaged (its entry of the source '{public_url(source)[:120]}'): download it again")
    if not isinstance(facts, dict):
        raise wrong
    places, length, identities = facts.get("places"), facts.get("length"), facts.get("identities")
    directory = facts.get("directory", "")
    if not isinstance(places, list) or not places or not all(isinstance(place, str) and place for place in places):
        raise wrong
    if type(length) is not int or not 0 <= length < 1 << 63 or not isinstance(directory, str):
        raise wrong
    if not isinstance(identities, dict) or not all(isinstance(value, str) for value in identities.values()):
        raise wrong
    try:
        "".join((source, directory, *places, *identities, *identities.values())).encode()
    except UnicodeEncodeError:
        raise wrong from None
    for place in places:
        require_url(place, f"{name}:")
        if "\0" in place:
            raise wrong
    public = tuple(dict.fromkeys(map(public_url, places)))
    return SourceFacts(public, length, {public_url(place): value for place, value in identities.items()}, directory)
