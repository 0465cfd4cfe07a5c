"""Removal of an image or a person from a build; the dataset is assembled again, ready to be published.

The build keeps what keeps them out: the decision, with the image's id or the person's pseudonym, and the row's place in
the manifest. Boxes, hashes, texts and the name in the archive are removed.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from handdata.assets import cache_folder
from handdata.builds.folder import BuildFolder
from handdata.errors import UserError
from handdata.files import remove
from handdata.gestures import also
from handdata.rows import decisions
from handdata.rows.manifest import SOURCES, read_manifest, source_facts
from handdata.rows.schema import MANIFEST, STAGE_COLUMNS
from handdata.rows.shards import SHARD_ROWS, image_path, read_table, shard_path, write_table
from handdata.sources import journal
from handdata.sources.places import is_remote
from handdata.stages import Execution, assemble
from handdata.store.store import everything

_CACHES = ("index", "encoded", "features")  # annotations and directories of remote archives; what training computed
_EMPTY = {"subject": "", "hagrid_split": "", "bboxes": [], "labels": [], "source": "", "member": ""}
_EMPTY |= {name: 0 for name in MANIFEST.names if pa.types.is_integer(MANIFEST.field(name).type)}


@dataclass(frozen=True)
class Dropped:
    """Result of a removal."""

    images: int  # number of removed images
    rows: int | None  # rows of the dataset now, None before it was first assembled; with 0 it has been deleted
    elsewhere: tuple[str, ...] = ()  # files and folders that the build reads, and that may still hold the images


def drop(
    build: BuildFolder, image_id: str | None, subject: str | None, note: str | None = None, progress: bool = True
) -> Dropped:
    """Record the decision, remove the images and all that is known of them, and assemble the dataset again.

    Interrupted at any moment, the same call resumes: the manifest, which names the images, is changed last. Raises
    `UserError` if both or neither is given, or no row of the build has that value.
    """
    if (image_id is None) == (subject is None):
        raise UserError("give either --image-id or --subject")
    with build.lock(), build.store.exclusive("review"):
        build.store.bring_all(everything)
        rows = _rows(build.path, image_id, subject)
        elsewhere = _elsewhere(build, rows)
        ids = {row["image_id"] for row in rows.values()}
        person = [decisions.Decision("dropped", subject=subject, note=note)] if subject is not None else []
        note = None if person else note
        images = [decisions.Decision("dropped", image_id=image_id, note=note) for image_id in sorted(ids)]
        decisions.append(build.path, [*person, *images])
        decisions.forget(build.path, ids | ({subject} if subject else set()))
        for number, row in rows.items():
            remove(image_path(build.path, row["gesture"], row["image_id"]))
            _blank(build.path, number)
        journal.forget(build.path, ids)
        remove(build.path / "review.html")  # it shows the texts; `handdata review` writes a new page
        _reduce(build.path, rows)
        build.store.mirror(everything)
        try:
            return Dropped(len(rows), _assembled_again(build, progress), elsewhere)
        except UserError as error:
            places = f"; {', '.join(elsewhere)} may still hold them" if elsewhere else ""
            raise UserError(
                f"{len(rows)} images are removed{places}, but the dataset is not written: {error}"
            ) from None


def _assembled_again(build: BuildFolder, progress: bool) -> int | None:
    """Return the number of rows of the dataset that replaces the old one, None if it was never assembled.

    The old one holds the removed images, and is deleted whether or not another one can be assembled.
    """
    dataset, summary = build.path / "dataset", build.path / "assembled.json"
    if not dataset.exists() and not summary.exists():
        return None
    for folder in (dataset, *(dataset.with_name(f".{dataset.name}.{suffix}") for suffix in ("old", "partial"))):
        remove(folder)
        if folder.exists():
            raise UserError(f"{folder} still holds the removed images: delete it, then repeat this command")
    try:
        with also(build.recipe.gesture):
            return assemble.run(build.path, build.recipe, Execution(progress=progress)).rows
    except assemble.EmptyDataset:
        remove(summary)
        return 0


def _rows(build: Path, image_id: str | None, subject: str | None) -> dict[int, dict[str, str]]:
    """Return the rows with that image id or subject by number, with gesture, image id and source."""
    column, value = ("image_id", image_id) if image_id is not None else ("subject", subject)
    table = read_manifest(build, columns=["image_id", "gesture", "subject", "source"]).to_pylist()
    rows = {number: row for number, row in enumerate(table) if row[column] == value}
    if not rows and subject not in decisions.replay(build).dropped_subjects:
        option = f"--{column.replace('_', '-')}"
        raise UserError(f"{option} {value}: no row of {build} has that {column}; its manifest.parquet lists them")
    return rows


def _blank(build: Path, number: int) -> None:
    """Empty a row in the shards of all stages: columns computed from an image describe the person in it."""
    shard, place = divmod(number, SHARD_ROWS)
    for stage in STAGE_COLUMNS:
        path = shard_path(build, stage, shard)
        table = read_table(path)
        if table is None:  # a damaged shard counts as absent, and may hold the row
            remove(path)
            continue
        rows = table.to_pylist()
        rows[place] = {"image_id": rows[place]["image_id"], "reason": "dropped"}
        write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def _reduce(build: Path, rows: dict[int, dict[str, str]]) -> None:
    """Empty rows of the manifest, except for what gives the other rows their places."""
    table = read_manifest(build)
    lines = table.to_pylist()
    for number in rows:
        kept = {name: lines[number][name] for name in ("image_id", "gesture", "split", "rank", "spare")}
        lines[number] = {**_EMPTY, **kept}
    write_table(pa.Table.from_pylist(lines, schema=table.schema), build / "manifest.parquet")


def _elsewhere(build: BuildFolder, rows: dict[int, dict[str, str]]) -> tuple[str, ...]:
    """Return local archives and caches that may still hold the images or their annotations."""
    schema = read_manifest(build.path, columns=["image_id"]).schema
    facts = source_facts(schema) if SOURCES in (schema.metadata or {}) else {}
    names = {row["source"] for row in rows.values()}
    places = [place for name, fact in facts.items() if name in names for place in fact.places]
    places += build.recipe.source.annotations
    local = [Path(place).absolute() for place in places if not is_remote(place) and Path(place).exists()]
    inside = (build.path / "source").absolute()
    found = [inside if inside in path.parents else path for path in [*local, inside] if path.exists()]
    if build.store.place != str(build.path):  # copies of the parts that ran on this machine
        found += [path for path in sorted(build.path.parent.iterdir()) if path.is_dir() and path != build.path]
    caches = [cache_folder() / name for name in _CACHES]
    return tuple(dict.fromkeys(str(path) for path in [*found, *caches] if path.exists()))
