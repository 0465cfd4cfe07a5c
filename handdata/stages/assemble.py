"""Assemble the dataset of a build: chosen rows, Parquet files, card, Croissant description, pictures.

The folder `dataset/` appears by rename when it is complete; `publish` uploads it. The same build gives the same bytes.
"""

import hashlib
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from handdata import gestures
from handdata.dataset import card
from handdata.dataset.checksums import CHECKSUMS, File, damaged, write_checksums
from handdata.dataset.credits import fingerprints
from handdata.dataset.parquet import write_data
from handdata.errors import UserError
from handdata.files import read_sealed_json, sha256_of, whole_folder, write_sealed_json
from handdata.recipe import Recipe
from handdata.rows import decisions
from handdata.rows.manifest import public_metadata, read_manifest
from handdata.rows.publication import Choice, choose
from handdata.rows.schema import MANIFEST, SPLITS, STAGE_COLUMNS, features
from handdata.rows.shards import SHARD_ROWS, read_shard, shard_count, shard_path
from handdata.rows.shortfalls import of_dataset
from handdata.stages import STAGES, Execution, StageReport, needs, stage_named, stages_for
from handdata.texts.checks import require_fit

VERSION = 2  # raised when a change of the code changes the dataset
_WITHOUT_TEXT = ("caption-empty", "text-impossible")  # reasons that a person's own text removes


class EmptyDataset(UserError):
    """No row of a build can be published."""


def run(build: Path, recipe: Recipe, execution: Execution) -> StageReport:
    """Bring `dataset/` up to date; report its number of rows. Files of it that were damaged or changed count as absent.

    Raises `UserError` if a stage has not been run or a person's text fails the checks, `EmptyDataset` if no row can be
    published, `Unfinished` if an image changed after it was measured.
    """
    summary = read_summary(build)
    stale = summary is None or not is_current(build, recipe) or bool(changed_files(build, summary))
    if stale:
        summary = _assemble(build, recipe, execution.progress)
    assert summary is not None
    for short in summary["shortfalls"] if execution.progress else ():
        print(of_dataset(short), file=sys.stderr)
    rows = sum(sum(splits.values()) for splits in summary["rows"].values())
    return StageReport(rows, made_rows=rows if stale else 0)


def is_current(build: Path, recipe: Recipe) -> bool:
    """Return whether `dataset/` was made from the present state of the build; of its files, only sizes are compared."""
    summary = read_summary(build)
    if summary is None or changed_files(build, summary, quick=True):
        return False
    return bool(summary["key"] == _input_key(build, recipe))


def changed_files(build: Path, summary: dict[str, Any], quick: bool = False) -> list[str]:
    """Return the files of `dataset/` that are missing or not as they were made; `quick` compares only their sizes."""
    listing = build / "dataset" / CHECKSUMS
    if not listing.is_file() or sha256_of(listing) != summary["checksums"]:
        return [CHECKSUMS]
    return damaged(build / "dataset", quick)


def read_summary(build: Path) -> dict[str, Any] | None:
    """Return `assembled.json`: key, rows, shortfalls, reasons and files of the dataset; None without a whole one."""
    return read_sealed_json(build / "assembled.json")


def read_rows(build: Path, decided: decisions.Decisions) -> pa.Table:
    """Return all rows of a build with the columns of all stages and `why`, the reason not to publish a row."""
    table = read_manifest(build)
    pairs = zip(table["image_id"].to_pylist(), table["subject"].to_pylist(), strict=True)
    verdicts = [decided.about(*pair) for pair in pairs]
    why: list[str | None] = [verdict if verdict in ("dropped", "rejected") else None for verdict in verdicts]
    for stage, schema in STAGE_COLUMNS.items():
        columns = _read_stage(build, stage, table["image_id"].to_pylist())
        reasons = columns["reason"].to_pylist()
        why = [old if old and old != "failed-earlier" else new or old for old, new in zip(why, reasons, strict=True)]
        for name in schema.names:
            table = table.append_column(name, columns[name])
    edited = [verdict == "edited" for verdict in verdicts]
    why = [None if new and old in _WITHOUT_TEXT else old for new, old in zip(edited, why, strict=True)]
    return table.append_column("why", pa.array(why, pa.string()))


def _read_stage(build: Path, stage: str, image_ids: list[str]) -> pa.Table:
    """Return all rows of a stage. Raises `UserError` if a shard is missing or damaged."""
    shards = []
    for shard in range(shard_count(len(image_ids))):
        table = read_shard(build, stage, shard, image_ids[shard * SHARD_ROWS :][:SHARD_ROWS])
        if table is None:
            supplier = next(other for other in STAGES if other.columns == stage)
            raise needs(build, stage_named("assemble"), supplier, shard)
        shards.append(table)
    return pa.concat_tables([table.replace_schema_metadata(None) for table in shards])


def _assemble(build: Path, recipe: Recipe, progress: bool) -> dict[str, Any]:
    key, decided = _input_key(build, recipe), decisions.replay(build)
    rows = read_rows(build, decided)
    _check_edited(build, rows, decided)
    counts = {split: getattr(recipe.select, split) for split in SPLITS}
    if recipe.source.kind == "photos":  # all of them, in the splits of the manifest
        counts = dict.fromkeys(SPLITS, rows.num_rows)
    choice = choose(rows, recipe.select.gestures, counts, recipe.assemble.near_duplicate)
    if recipe.source.kind == "photos":
        selected = Counter(zip(rows["gesture"].to_pylist(), rows["split"].to_pylist(), strict=True))
        choice.requested = {key: selected[key] for key in choice.requested}
    if not any(choice.rows.values()):
        raise EmptyDataset(f"no row of {build} can be published: `handdata status {build}` lists the reasons")
    manifest = _manifest(build, choice)
    if recipe.source.kind == "photos":
        rows, manifest = _without_names(rows), _without_names(manifest)
    rows = _published(rows, decided, recipe.select.gestures)
    with whole_folder(build / "dataset") as staging:
        files = write_data(build, staging, rows, choice, recipe.assemble, progress)
        pq.write_table(manifest, staging / "manifest.parquet", compression="zstd")
        summary = _summary(key, choice, files)
        values = {"seed": recipe.select.seed, "short_side": recipe.image.short_side}
        steps = {stage.columns or stage.name: stage.card.format(**values) for stage in stages_for(recipe) if stage.card}
        card.write(build, staging, recipe, steps, summary, rows, choice)
        write_checksums(staging, files)
        summary["checksums"] = sha256_of(staging / CHECKSUMS)
    write_sealed_json(build / "assembled.json", summary)
    return summary


def _check_edited(build: Path, rows: pa.Table, decided: decisions.Decisions) -> None:
    """Raise `UserError` for the first text of a person that fails the checks: lines may have been added by hand."""
    columns = (rows[name].to_pylist() for name in ("image_id", "subject", "caption", "gesture"))
    for image_id, subject, caption, gesture in zip(*columns, strict=True):
        if decided.about(image_id, subject) == "edited":
            try:
                require_fit(image_id, caption or "", gesture, decided.text(image_id) or "")
            except UserError as error:
                raise UserError(f"{build / decisions.FILE}: {error}") from None


def _published(rows: pa.Table, decided: decisions.Decisions, names: tuple[str, ...]) -> pa.Table:
    """Return the rows with the published columns except `image`, and with `bytes`."""
    by_name = gestures.gestures()
    row_gestures = rows["gesture"].to_pylist()
    edited = [decided.text(image_id) for image_id in rows["image_id"].to_pylist()]
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {
        "text": [new or old for new, old in zip(edited, rows["text"].to_pylist(), strict=True)],
        "caption": [caption or "" for caption in rows["caption"].to_pylist()],
        "checks": [checks or [] for checks in rows["checks"].to_pylist()],
        "rewrite": ["edited" if new else old for new, old in zip(edited, rows["rewrite"].to_pylist(), strict=True)],
        "gesture": [names.index(gesture) if gesture in names else None for gesture in row_gestures],
        "gesture_phrase": [by_name[gesture].phrase for gesture in row_gestures],
        "sha256": rows["digest"],
    }
    schema = pa.schema([f for f in features(list(names)).arrow_schema if f.name != "image"])
    return pa.table([*(_cast(columns[f.name], f.type) for f in schema), rows["bytes"]], [*schema.names, "bytes"])


def _cast(column: Any, kind: pa.DataType) -> Any:
    return column.cast(kind) if isinstance(column, pa.ChunkedArray) else pa.array(column, kind)


def _without_names(rows: pa.Table) -> pa.Table:
    """Return rows of photographs whose members are called by image id: folders and files may have persons' names."""
    pairs = zip(rows["image_id"].to_pylist(), rows["member"].to_pylist(), strict=True)
    members = [f"{image_id}{PurePosixPath(member).suffix.lower()}" for image_id, member in pairs]
    return rows.set_column(rows.schema.get_field_index("member"), "member", pa.array(members, pa.string()))


def _manifest(build: Path, choice: Choice) -> pa.Table:
    """Return the manifest of the published rows, from which `fetch --manifest` gets the same images on any machine."""
    numbers = sorted(number for rows in choice.rows.values() for number in rows)
    table = read_manifest(build, columns=MANIFEST.names)
    return table.take(numbers).replace_schema_metadata(public_metadata(table.schema))


def _summary(key: str, choice: Choice, files: list[File]) -> dict[str, Any]:
    names = ("gesture", "split", "asked", "there")
    return {
        "key": key,
        "rows": {
            gesture: {split: len(choice.rows[gesture, split]) for split in reversed(SPLITS)}
            for gesture in choice.gestures
        },
        "shortfalls": [
            {**dict(zip(names, short, strict=True)), "not_taken": dict(choice.left_out[short[0], short[1]])}
            for short in choice.shortfalls
        ],
        "left_out": [
            {
                "gesture": gesture,
                "split": split,
                "spares_used": choice.spares_used[gesture, split],
                "reasons": dict(sorted(reasons.items())),
            }
            for (gesture, split), reasons in choice.left_out.items()
            if reasons
        ],
        "closest_bits": choice.closest,
        "files": [asdict(file) for file in files],
    }


def _input_key(build: Path, recipe: Recipe) -> str:
    """Return a hash of everything that decides the dataset; images enter by their sha256 in the stage `facts`."""
    digest = hashlib.sha256(f"{VERSION} {card.VERSION} {pa.__version__}".encode())
    digest.update(decisions.content(build))
    tables: tuple[Any, ...] = (recipe.select, recipe.image, recipe.assemble, recipe.publish)
    if recipe.source.kind == "photos":
        tables = (*tables, recipe.photos, recipe.gesture)
    digest.update(repr((recipe.name, *tables, fingerprints(build))).encode())
    rows = read_manifest(build)
    digest.update((build / "manifest.parquet").read_bytes())
    for stage in STAGE_COLUMNS:
        for shard in range(shard_count(rows.num_rows)):
            path = shard_path(build, stage, shard)
            digest.update(path.read_bytes() if path.is_file() else b"missing")
    return digest.hexdigest()
