"""Make the manifest: annotations and archive index joined, images chosen, all that is needed to fetch them anywhere."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from handdata.errors import UserError
from handdata.recipe import SelectOptions, SourceOptions
from handdata.rows.decisions import Decisions, replay
from handdata.rows.manifest import Manifest, SourceFacts, read_manifest
from handdata.rows.oddities import Oddities
from handdata.rows.schema import MANIFEST
from handdata.rows.selection import Choice, choose
from handdata.rows.shards import KEY, stored_key, write_table
from handdata.sources import annotations, archive, index
from handdata.sources.index import Say
from handdata.sources.places import Archive, Sources, is_remote, resolve
from handdata.stages import Execution, StageReport

if TYPE_CHECKING:
    from handdata.recipe import ImageOptions, Recipe
    from handdata.sources.http import Client

VERSION = 1  # raised when a change of the code changes what is chosen


def run(build: Path, recipe: "Recipe", execution: Execution) -> StageReport:
    """Make the manifest, unless the one that is there was made from the same recipe and files."""
    from handdata.sources.download import download_all
    from handdata.sources.http import Client

    path, notes = build / "manifest.parquet", {}
    if not recipe.source.images and recipe.source.kind != "render" and path.exists():  # started from a manifest alone
        return StageReport(rows=read_manifest(build, columns=["image_id"]).num_rows)
    source = _drawn(build, recipe, execution)
    sources = resolve(source, recipe.select.gestures, build)
    key = input_key(sources, recipe.select, recipe.image)
    if not path.exists() or stored_key(path) != key:
        say: Say = (lambda line: print(line, file=sys.stderr)) if execution.progress else (lambda line: None)
        client = Client(recipe.fetch)
        try:
            if source.whole:
                sources = download_all(sources, build / "source", client, execution.progress)
            made = make(sources, recipe.select, recipe.image, replay(build), client, say)
        finally:
            client.close()
        metadata = {**(made.table.schema.metadata or {}), KEY: key.encode()}
        write_table(made.table.replace_schema_metadata(metadata), path)
        shortfalls = [{"gesture": g, "split": s, "lacking": n} for (g, s), n in made.shortfalls.items()]
        odd = {"odd": dict(made.odd.counts), "examples": made.odd.examples}
        notes = {"selection": {"candidates": made.candidates, **odd, "shortfalls": shortfalls}}
        for line in made.odd.lines():
            say(line)
        if shortfalls:
            say(f"{sum(made.shortfalls.values()):,} images are missing: `handdata status` shows where")
    return StageReport(rows=read_manifest(build, columns=["image_id"]).num_rows, notes=notes)


def _drawn(build: Path, recipe: "Recipe", execution: Execution) -> SourceOptions:
    """Return the recipe's source; one of kind `render` is drawn into BUILD/source first, once."""
    if recipe.source.kind != "render":
        return recipe.source
    from handdata.world import render

    folder = build / "source"
    gestures = recipe.render.gestures or recipe.select.gestures
    render.draw(dataclasses.replace(recipe.render, gestures=gestures), folder, 0, execution.progress)
    place = folder.absolute()
    return SourceOptions(annotations=(str(place / "annotations.zip"),), images=(str(place / "{gesture}.zip"),))


def make(
    sources: Sources, options: SelectOptions, image: "ImageOptions", decisions: Decisions, client: "Client", say: Say
) -> Manifest:
    """Read annotations and indices and choose. Raises `UserError` where nothing can be read or chosen."""
    odd = Oddities()
    table = read_annotations(sources.annotations, options.gestures, client, odd, say)
    members = Members(table.num_rows)
    indices = [_find(number, source, table, members, client, odd, say) for number, source in enumerate(sources.images)]
    available = members.position >= 0
    _report_missing(table, available, odd)
    available &= ~_dropped(table, decisions)
    choice = choose(table, available, options, odd)
    if not len(choice.rows):
        raise UserError(
            f"none of {table.num_rows:,} annotated images can be chosen ({int(available.sum()):,} are in the archive):"
            " check [select] and that [source] names the images of these annotations"
        )
    rows = _rows(table, choice, members, indices, _names(sources.images))
    facts = {
        name: SourceFacts(source.places, one.length, {one.place: one.identity})
        for name, source, one in zip(_names(sources.images), sources.images, indices, strict=True)
    }
    metadata = {
        "hand1000:sources": json.dumps({name: dataclasses.asdict(one) for name, one in facts.items()}),
        "hand1000:image": json.dumps(dataclasses.asdict(image)),
    }
    return Manifest(rows.replace_schema_metadata(metadata), odd, table.num_rows, choice.shortfalls)


def input_key(sources: Sources, options: SelectOptions, image: "ImageOptions") -> str:
    """Return the sha256 of all that decides a manifest, as far as it can be told without asking a server.

    A far archive that was replaced is noticed when it is fetched from (If-Range).
    """
    local = {}
    for place in (*sources.annotations.places, *(place for one in sources.images for place in one.places)):
        if not is_remote(place) and Path(place).exists():
            status = Path(place).stat()
            local[place] = [status.st_size, status.st_mtime_ns]
    parts = [VERSION, annotations.VERSION, dataclasses.asdict(sources), dataclasses.asdict(options), local]
    parts.append(dataclasses.asdict(image))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_annotations(source: Archive, gestures: tuple[str, ...], client: "Client", odd: Oddities, say: Say) -> pa.Table:
    """Read the gestures' records of an annotations archive or folder; only those JSON files are read."""
    opened = index.open_place(source, client)
    read: Callable[[annotations.AnnotationFile], tuple[pa.Table, Oddities]]
    if isinstance(opened, index.FolderIndex):
        root = opened.root
        found = annotations.files(annotations.folder_names(root), gestures, source.name)

        def read(file: annotations.AnnotationFile) -> tuple[pa.Table, Oddities]:
            return annotations.parse((root / file.name).read_bytes(), file)

    else:
        reader = opened
        entries = annotations.archive_entries(index.zip_index(reader, say).directory)
        sizes = {name: entry.compressed_size for name, entry in entries.items()}
        found = annotations.files(sizes, gestures, source.name)

        def read(file: annotations.AnnotationFile) -> tuple[pa.Table, Oddities]:
            return _cached_annotations(reader, entries[file.name], file)

    size = sum(file.size for file in found)
    say(f"reading annotations: {len(found)} of the files in {source.name}, {size / 1e6:,.1f} MB")
    tables = []
    for file in found:
        table, some = read(file)
        tables.append(table)
        odd.merge(some)
    return pa.concat_tables(tables)


class Members:
    """Where each annotated image lies: arrays over the rows of the annotations table."""

    def __init__(self, rows: int) -> None:
        self.archive = np.full(rows, -1, dtype=np.int16)
        self.position = np.full(rows, -1, dtype=np.int64)


def _find(
    number: int, source: Archive, table: pa.Table, members: Members, client: "Client", odd: Oddities, say: Say
) -> index.Index:
    opened = index.open_index(source, client, say)
    gestures = table["gesture"].to_pylist()
    wanted: dict[bytes, int] = {}
    more: dict[int, list[int]] = {}  # further rows of an image id that is annotated more than once
    for row, image_id in enumerate(table["image_id"].to_pylist()):
        if source.gesture in (None, gestures[row]):
            first = wanted.setdefault(image_id.encode(), row)
            if first != row:
                more.setdefault(first, []).append(row)
    for first, position, name in opened.find(wanted):
        if not name.lower().endswith((b".jpg", b".jpeg")):
            continue
        for row in (first, *more.get(first, ())):
            if index.gesture_fits(name, gestures[row], source.gesture):
                if members.archive[row] == number:
                    odd.add("repeated-member", name.decode("utf-8", "replace"))
                members.archive[row], members.position[row] = number, position
    return opened


def _cached_annotations(
    reader: archive.Reader, entry: archive.Entry, file: annotations.AnnotationFile
) -> tuple[pa.Table, Oddities]:
    """Read one member of an annotations archive; a far one's rows (never its `meta`) are kept in the cache."""
    import pyarrow.parquet as pq

    kind = hashlib.sha256(f"{entry.name}\n{annotations.VERSION}".encode()).hexdigest()[:16]
    cached = index.cache_path(reader, f"{kind}.parquet") if is_remote(reader.place) else None
    if cached and cached.is_file():
        table = pq.read_table(cached)
        stored = json.loads(table.schema.metadata[b"hand1000:odd"])
        odd = Oddities(examples=stored["examples"])
        odd.counts.update(stored["counts"])
        return table.replace_schema_metadata(None), odd
    text = read_member(reader, entry)
    table, odd = annotations.parse(text, file)
    if cached:
        stored = json.dumps({"counts": dict(odd.counts), "examples": odd.examples})
        write_table(table.replace_schema_metadata({"hand1000:odd": stored}), cached)
    return table, odd


def read_member(reader: archive.Reader, entry: archive.Entry, largest: int = 1 << 30) -> bytes:
    """Read one whole member of an archive. Raises `UserError` where it is damaged."""
    try:
        archive.check_limits(entry, largest)
        start, end = archive.span(entry)
        data = reader.read(start, min(end, reader.length) - start)
        begin = archive.data_start(entry, data)
        if len(data) < begin + entry.compressed_size:  # a local extra field longer than was read for it
            data = reader.read(start, begin + entry.compressed_size)
        return archive.unpack(entry, memoryview(data)[begin : begin + entry.compressed_size])
    except archive.BadMember as error:
        raise UserError(f"{entry.name} in {reader.place} is damaged: {error}") from None


def _rows(table: pa.Table, choice: Choice, members: Members, indices: list[index.Index], names: list[str]) -> pa.Table:
    chosen = table.take(pa.array(choice.rows))
    archives = members.archive[choice.rows].tolist()
    positions = members.position[choice.rows].tolist()
    entries = [indices[number].entry(position) for number, position in zip(archives, positions, strict=True)]
    columns: dict[str, Any] = {name: chosen[name] for name in ("image_id", "gesture", "subject", "hagrid_split")}
    columns |= {"bboxes": chosen["bboxes"], "labels": chosen["labels"]}
    columns |= {"split": choice.splits, "rank": choice.ranks, "spare": choice.spares}
    columns["source"] = [names[number] for number in archives]
    columns["member"] = [entry.name for entry in entries]
    for name in ("offset", "compressed_size", "size", "method", "crc32"):
        columns[name] = [getattr(entry, name) for entry in entries]
    columns["method"] = [ENCRYPTED if entry.encrypted else entry.method for entry in entries]
    return pa.table({name: columns[name] for name in MANIFEST.names}, schema=MANIFEST)


ENCRYPTED = 99  # the manifest's method of a member that cannot be read: zip's own number for AES


def _names(images: tuple[Archive, ...]) -> list[str]:
    """Return the sources' names; two local files of one name go by their whole paths."""
    names = [source.name for source in images]
    return [source.places[0] if names.count(source.name) > 1 else source.name for source in images]


def _report_missing(table: pa.Table, available: np.ndarray, odd: Oddities) -> None:
    missing = np.flatnonzero(~available)
    first = [f"{table['gesture'][row]}/{table['image_id'][row]}" for row in missing[:3].tolist()]
    odd.add_many("image-missing", first, len(missing))


def _dropped(table: pa.Table, decisions: Decisions) -> np.ndarray:
    if not decisions.dropped_images and not decisions.dropped_subjects:
        return np.zeros(table.num_rows, dtype=bool)
    pairs = zip(table["image_id"].to_pylist(), table["subject"].to_pylist(), strict=True)
    return np.array([decisions.about(*pair) == "dropped" for pair in pairs], dtype=bool)
