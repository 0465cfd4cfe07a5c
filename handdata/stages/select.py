"""The stage `select`: choose images from annotations and archive indices, and write them to the manifest."""

import dataclasses
import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from handdata.errors import UserError
from handdata.recipe import ImageOptions, Recipe, SourceOptions
from handdata.recipe.paths import GESTURE, absolute_place, with_gesture
from handdata.rows.decisions import Decisions, replay
from handdata.rows.manifest import Manifest, SourceFacts, read_manifest
from handdata.rows.oddities import Oddities
from handdata.rows.schema import MANIFEST
from handdata.rows.selection import Choice, choose
from handdata.rows.shards import KEY, stored_key, write_table
from handdata.rows.shortfalls import of_selection
from handdata.sources import annotations
from handdata.sources.archive import ENCRYPTED
from handdata.sources.download import download_all
from handdata.sources.http import Client
from handdata.sources.index import FolderIndex, ZipIndex, folder_state, gesture_fits, open_place, read_index
from handdata.sources.places import Archive, Sources, names, resolve
from handdata.stages import Execution, StageReport
from handdata.web.urls import identity_url, is_remote

VERSION = 1  # increased when a change of the code changes the choice
_SHORTFALLS = 12  # gestures and splits that are named while a build runs


def run(build: Path, recipe: Recipe, execution: Execution, again: bool = False) -> StageReport:
    """Write a build's manifest, unless the existing one was made from the same recipe and files.

    With `again` it is written in any case, since an archive was replaced. The manifest of a build that was started from
    a manifest is kept. Raises `UserError` like `make_manifest`.
    """
    path = build / "manifest.parquet"
    report = StageReport()
    if recipe.source.kind == "photos":
        return _photographs(build, recipe, execution)
    if not began_with_manifest(build, recipe):
        source = _rendered(build, recipe, execution) if recipe.source.kind == "render" else recipe.source
        sources = resolve(source, recipe.select.gestures, build)
        key = input_key(sources, recipe)
        if path.exists():
            read_manifest(build, columns=["image_id"])  # raises if it is damaged: it is not replaced without a word
        if again or stored_key(path) != key:
            with closing(Client(recipe.fetch, execution.progress)) as client:
                if source.whole:
                    sources = download_all(sources, build / "source", client)
                manifest = make_manifest(sources, recipe, replay(build), client)
                shortfalls = manifest.notes()["shortfalls"]
                for shortfall in shortfalls[:_SHORTFALLS]:
                    client.announce(of_selection(shortfall))
                if len(shortfalls) > _SHORTFALLS:
                    client.announce(f"{len(shortfalls) - _SHORTFALLS} more of these: `handdata status` lists all")
            metadata = {**(manifest.table.schema.metadata or {}), KEY: key.encode()}
            write_table(manifest.table.replace_schema_metadata(metadata), path)
            report.notes["selection"], report.made_rows = manifest.notes(), manifest.table.num_rows
    report.rows = read_manifest(build, columns=["image_id"]).num_rows
    return report


def began_with_manifest(build: Path, recipe: Recipe) -> bool:
    """Return whether a build has a manifest that was made elsewhere: its recipe cannot choose the images.

    `[source] images` of such a recipe may name the addresses to request.
    """
    path, source = build / "manifest.parquet", recipe.source
    if source.kind in ("render", "photos") or not path.exists():
        return False
    alone = not source.annotations and source.kind != "folder"
    return not source.images or (alone and stored_key(path) is None)


def _photographs(build: Path, recipe: Recipe, execution: Execution) -> StageReport:
    """Write the manifest of a folder of photographs, unless the existing one was made from the same files."""
    from handdata.photos import forms
    from handdata.photos import manifest as photos
    from handdata.photos.persons import salt_of

    path, report = build / "manifest.parquet", StageReport()
    if len(recipe.source.images) != 1:
        raise UserError(f"{photos.OPTION} lists {len(recipe.source.images)} places: the kind 'photos' needs one")
    place = forms.resolved(with_gesture(recipe.source.images[0], GESTURE), photos.OPTION)
    forms.require_outside(place, build, photos.OPTION)
    tables = (recipe.select, recipe.photos, recipe.image, recipe.landmarks, recipe.fetch, recipe.gesture)
    parts = [photos.VERSION, forms.state(place), repr(tables)]
    key = hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogateescape")).hexdigest()
    if path.exists():
        read_manifest(build, columns=["image_id"])  # raises if it is damaged: it is not replaced without a word
    if stored_key(path) != key:
        decided = replay(build)
        salt = salt_of(build, decided)
        manifest = photos.make_manifest(place, recipe, build / "source", decided, execution.progress, salt)
        metadata = {**(manifest.table.schema.metadata or {}), KEY: key.encode()}
        write_table(manifest.table.replace_schema_metadata(metadata), path)
        report.notes["selection"] = manifest.notes()
    report.rows = read_manifest(build, columns=["image_id"]).num_rows
    return report


def make_manifest(sources: Sources, recipe: Recipe, decisions: Decisions, client: Client) -> Manifest:
    """Read annotations and indices and choose images. Raises `UserError` if a file cannot be read or no image fits."""
    index = read_index(open_place(sources.annotations, client))
    files = annotations.files(index.json_files(), recipe.select.gestures, sources.annotations.name)
    size = sum(file.entry.compressed_size for file in files) / 1e6
    client.announce(f"reading annotations: {len(files)} of the files in {sources.annotations.name}, {size:,.1f} MB")
    odd, tables = Oddities(), []
    for file in files:
        rows, file_odd = annotations.read(index, file)
        tables.append(rows)
        odd.merge(file_odd)
    table = pa.concat_tables(tables)
    indices = [read_index(open_place(source, client)) for source in sources.images]
    members = _Members(table.num_rows)
    for number, (source, source_index) in enumerate(zip(sources.images, indices, strict=True)):
        _enter_members(members, number, source, source_index, table, odd)
    available = members.position >= 0
    _report_missing(table, available, odd)
    available &= ~_dropped(table, decisions)
    choice = choose(table, available, recipe.select, odd)
    if not len(choice.rows):
        raise UserError(
            f"none of {table.num_rows:,} annotated images can be chosen ({int(available.sum()):,} are in the archive):"
            " check [select] and that [source] names the images of these annotations"
        )
    for line in odd.lines():
        client.announce(line)
    chosen = _rows(table, choice, members, indices, names(sources.images))
    metadata = _metadata(sources.images, indices, recipe.image)
    chosen = chosen.replace_schema_metadata(metadata)
    return Manifest(chosen, odd, table.num_rows, choice.shortfalls, choice.not_taken)


def input_key(sources: Sources, recipe: Recipe) -> str:
    """Return the sha256 of everything that decides a manifest and is known without a request.

    A remote archive that was replaced is noticed when it is fetched from (If-Range).
    """
    local: dict[str, list[Any]] = {}
    for place in (*sources.annotations.places, *(place for source in sources.images for place in source.places)):
        if not is_remote(place) and Path(place).exists():
            status = Path(place).stat()
            files = Path(place).is_dir()
            local[place] = folder_state(Path(place)) if files else [status.st_size, status.st_mtime_ns]
    options = [_without_secrets(dataclasses.asdict(sources)), dataclasses.asdict(recipe.select)]
    parts = [VERSION, annotations.VERSION, *options, local, dataclasses.asdict(recipe.image)]
    numbered = [name for name in names(sources.images) if "#" in name and not is_remote(name)]
    parts += [numbered] if numbered else []  # these were called by their paths before they were numbered
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _without_secrets(value: Any) -> Any:
    """Return a table with every URL reduced to what identifies its file: a new signature makes no new selection."""
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return identity_url(value) if isinstance(value, str) else value


def _rendered(build: Path, recipe: Recipe, execution: Execution) -> SourceOptions:
    """Draw the mini world into BUILD/source, once, and return it as a source."""
    from handdata.world import render

    options = dataclasses.replace(recipe.render, gestures=recipe.render.gestures or recipe.select.gestures)
    render.draw(options, build / "source", 0, execution.progress, own=True)
    annotations, images = (absolute_place(name, build / "source") for name in ("annotations.zip", f"{GESTURE}.zip"))
    return SourceOptions(annotations=(annotations,), images=(images,))


class _Members:
    """The member of each annotated image: number of the archive and position in its index, -1 if it is missing."""

    def __init__(self, rows: int) -> None:
        self.archive = np.full(rows, -1, dtype=np.int16)
        self.position = np.full(rows, -1, dtype=np.int64)


def _enter_members(
    members: _Members, number: int, source: Archive, index: ZipIndex | FolderIndex, table: pa.Table, odd: Oddities
) -> None:
    """Enter the members of one archive that are annotated images."""
    gestures = table["gesture"].to_pylist()
    wanted: dict[bytes, int] = {}
    more: dict[int, list[int]] = {}  # further rows of an image id that is annotated more than once
    for row, image_id in enumerate(table["image_id"].to_pylist()):
        if source.gesture in (None, gestures[row]):
            first = wanted.setdefault(image_id.encode(), row)
            if first != row:
                more.setdefault(first, []).append(row)
    for first, position, name in index.find(wanted):
        if not name.lower().endswith((b".jpg", b".jpeg")):
            continue
        for row in (first, *more.get(first, ())):
            if gesture_fits(name, gestures[row], source.gesture):
                if members.archive[row] == number:
                    odd.add("repeated-member", name.decode("utf-8", "backslashreplace"))
                members.archive[row], members.position[row] = number, position


def _rows(
    table: pa.Table, choice: Choice, members: _Members, indices: list[ZipIndex | FolderIndex], sources: list[str]
) -> pa.Table:
    """Return the chosen rows with the manifest's columns."""
    chosen = table.take(pa.array(choice.rows))
    archives = members.archive[choice.rows].tolist()
    positions = members.position[choice.rows].tolist()
    entries = [indices[number].entry(position) for number, position in zip(archives, positions, strict=True)]
    columns: dict[str, Any] = {name: chosen[name] for name in MANIFEST.names if name in chosen.column_names}
    columns |= {"split": choice.splits, "rank": choice.ranks, "spare": choice.spares}
    columns["source"] = [sources[number] for number in archives]
    columns["member"] = [entry.name for entry in entries]
    for name in ("offset", "compressed_size", "size", "crc32"):
        columns[name] = [getattr(entry, name) for entry in entries]
    columns["method"] = [ENCRYPTED if entry.encrypted else entry.method for entry in entries]
    return pa.table({name: columns[name] for name in MANIFEST.names}, schema=MANIFEST)


def _metadata(
    sources: tuple[Archive, ...], indices: list[ZipIndex | FolderIndex], image: ImageOptions
) -> dict[str, str]:
    """Return the metadata of a manifest's file: the facts on its sources and how its images are stored."""
    facts = {
        name: dataclasses.asdict(
            SourceFacts(source.public, index.length, {index.place: index.identity}, index.fingerprint)
        )
        for name, source, index in zip(names(sources), sources, indices, strict=True)
    }
    return {"hand1000:sources": json.dumps(facts), "hand1000:image": json.dumps(dataclasses.asdict(image))}


def _report_missing(table: pa.Table, available: np.ndarray, odd: Oddities) -> None:
    missing = np.flatnonzero(~available)
    first = [f"{table['gesture'][row]}/{table['image_id'][row]}" for row in missing[:3].tolist()]
    odd.add_many("image-missing", first, len(missing))


def _dropped(table: pa.Table, decisions: Decisions) -> np.ndarray:
    """Return a mask of the rows that a person dropped."""
    if not decisions.dropped_images and not decisions.dropped_subjects:
        return np.zeros(table.num_rows, dtype=bool)
    pairs = zip(table["image_id"].to_pylist(), table["subject"].to_pylist(), strict=True)
    return np.array([decisions.about(*pair) == "dropped" for pair in pairs], dtype=bool)
