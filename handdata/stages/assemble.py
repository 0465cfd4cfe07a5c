"""Assemble the dataset out of a build: chosen rows, Parquet files, card, Croissant, pictures. What `publish` sends off.

The folder `dataset/` appears by rename when it is whole. The same build gives the same bytes.
"""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from handdata import gestures
from handdata.errors import Unfinished, UserError
from handdata.rows import decisions
from handdata.rows.manifest import read_manifest
from handdata.rows.publication import Choice, choose
from handdata.rows.schema import SPLITS, STAGE_COLUMNS, features
from handdata.rows.shards import image_path, shard_count, shard_path, write_table
from handdata.stages import Execution, StageReport

if TYPE_CHECKING:
    from handdata.recipe import Recipe

VERSION = 1  # raised when a change of the code changes what comes out
FORMAT = "hand1000 dataset 1"
CHECKSUMS = "checksums.json"  # lists the published files; a folder or repository that has it is one of ours

_GROUP_ROWS = 100  # as the Hub's viewer likes them


@dataclass(frozen=True)
class File:
    """One file of the published dataset."""

    path: str  # below dataset/
    bytes: int
    sha256: str
    rows: int | None = None  # of a Parquet file in data/


def run(build: Path, recipe: "Recipe", execution: Execution) -> StageReport:
    """Bring `dataset/` up to date; return how many rows are in it.

    Raises `UserError` where a stage has not been run, `Unfinished` where an image changed after it was measured.
    """
    key = _input_key(build, recipe)
    finished = read_summary(build)
    if finished is None or finished["key"] != key or not (build / "dataset" / CHECKSUMS).is_file():
        finished = _assemble(build, recipe, key, execution.progress)
    for short in finished["shortfalls"] if execution.progress else ():
        print("{gesture}, {split}: {there:,} of {asked:,} rows; no spares are left".format(**short), file=sys.stderr)
    return StageReport(rows=sum(sum(splits.values()) for splits in finished["rows"].values()))


def is_current(build: Path, recipe: "Recipe") -> bool:
    """Tell whether `dataset/` is there and made from the build as it is now."""
    finished = read_summary(build)
    return (
        finished is not None
        and (build / "dataset" / CHECKSUMS).is_file()
        and finished["key"] == _input_key(build, recipe)
    )


def read_summary(build: Path) -> dict[str, Any] | None:
    """Return `assembled.json`: key, rows, shortfalls, reasons, files of the assembled dataset; None without one."""
    path = build / "assembled.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_rows(build: Path, decided: decisions.Decisions) -> pa.Table:
    """Return all rows of a build with the columns of all stages and `why`, the reason not to publish a row."""
    table = read_manifest(build)
    shards = range(shard_count(table.num_rows))
    pairs = zip(table["image_id"].to_pylist(), table["subject"].to_pylist(), strict=True)
    words = [decided.about(*pair) for pair in pairs]
    why: list[str | None] = [word if word in ("dropped", "rejected") else None for word in words]
    for stage, schema in STAGE_COLUMNS.items():
        paths = [shard_path(build, stage, shard) for shard in shards]
        missing = next((path for path in paths if not path.is_file()), None)
        if missing:
            raise UserError(f"'assemble' needs '{stage}', and {missing} is not there: run `handdata build` first")
        columns = pa.concat_tables([pq.read_table(path) for path in paths])
        assert columns["image_id"].equals(table["image_id"]), f"{stage} holds other rows than the manifest"
        reasons = columns["reason"].to_pylist()
        why = [old if old and old != "failed-earlier" else new or old for old, new in zip(why, reasons, strict=True)]
        for name in schema.names:
            table = table.append_column(name, columns[name])
    return table.append_column("why", pa.array(why, pa.string()))


def _assemble(build: Path, recipe: "Recipe", key: str, progress: bool) -> dict[str, Any]:
    from handdata.dataset import card

    decided = decisions.replay(build)
    rows = read_rows(build, decided)
    counts = {split: getattr(recipe.select, split) for split in SPLITS}
    choice = choose(rows, recipe.select.gestures, counts, recipe.assemble.near_duplicate)
    if not any(choice.rows.values()):
        raise UserError(f"no row of {build} can be published: `handdata status {build}` says why")
    rows = _published(rows, decided, recipe.select.gestures)
    staging = build / ".dataset.partial"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        files = _write_data(build, staging, rows, choice, recipe, progress)
        write_table(_manifest(build, choice), staging / "manifest.parquet")
        summary = _summary(key, choice, files)
        card.write(build, staging, recipe, summary, rows, choice)
        _write_checksums(staging, files)
        _swap(staging, build / "dataset")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _write_text(build / "assembled.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _published(rows: pa.Table, decided: decisions.Decisions, names: tuple[str, ...]) -> pa.Table:
    """Return the rows as the published columns of `features`, all but `image`."""
    words = gestures.gestures()
    ids, hands = rows["image_id"].to_pylist(), rows["gesture"].to_pylist()
    edited = [decided.text(image_id) for image_id in ids]
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {
        "text": [new or old for new, old in zip(edited, rows["text"].to_pylist(), strict=True)],
        "rewrite": ["edited" if new else old for new, old in zip(edited, rows["rewrite"].to_pylist(), strict=True)],
        "gesture": [names.index(hand) if hand in names else None for hand in hands],
        "gesture_phrase": [words[hand].phrase for hand in hands],
        "sha256": rows["digest"],
    }
    schema = pa.schema([f for f in features(list(names)).arrow_schema if f.name != "image"])
    extra = {name: rows[name] for name in ("bytes", "why")}
    return pa.table([_cast(columns[f.name], f.type) for f in schema] + list(extra.values()), [*schema.names, *extra])


def _pairs(rows: pa.Table, one: str, other: str) -> Any:
    return zip(rows[one].to_pylist(), rows[other].to_pylist(), strict=True)


def _cast(column: Any, kind: pa.DataType) -> Any:
    return column.cast(kind) if isinstance(column, pa.ChunkedArray) else pa.array(column, kind)


def _write_data(
    build: Path, staging: Path, rows: pa.Table, choice: Choice, recipe: "Recipe", progress: bool
) -> list[File]:
    from tqdm import tqdm

    schema = features(list(recipe.select.gestures)).arrow_schema
    sizes = rows["bytes"].to_numpy()
    total, files = sum(map(len, choice.rows.values())), []
    with tqdm(total=total, desc="assemble", unit="row", disable=None if progress else True) as bar:
        for (gesture, split), numbers in sorted(choice.rows.items()):
            parts = _cut(numbers, sizes, recipe.assemble.file_bytes, len(numbers))
            for index, part in enumerate(parts):
                path = f"data/{gesture}/{split}-{index:05d}-of-{len(parts):05d}.parquet"
                groups = _cut(part, sizes, recipe.assemble.group_bytes, _GROUP_ROWS)
                _write_file(build, staging / path, rows, groups, schema, gesture)
                files.append(describe_file(staging, path, len(part)))
                bar.update(len(part))
    return files


def _cut(numbers: list[int], sizes: Any, most_bytes: int, most_rows: int) -> list[list[int]]:
    """Cut row numbers into runs of at most so many image bytes and rows; a single larger row stands alone."""
    runs: list[list[int]] = []
    held = 0
    for number in numbers:
        if not runs or held + sizes[number] > most_bytes or len(runs[-1]) == most_rows:
            runs.append([])
            held = 0
        runs[-1].append(number)
        held += sizes[number]
    return runs


def _write_file(
    build: Path, path: Path, rows: pa.Table, groups: list[list[int]], schema: pa.Schema, gesture: str
) -> None:
    """Write one Parquet file, a row group at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # JPEGs do not compress; pages are cut by content, so that a changed row leaves the others' chunks as they were
    codecs = dict.fromkeys(_leaves(schema), "zstd") | {"image.bytes": "none"}
    repeating = ["text", "gesture", "gesture_phrase", "hagrid_split", "rewrite", "source", "labels.list.element"]
    with pq.ParquetWriter(
        path, schema, compression=codecs, use_dictionary=repeating, write_page_index=True,
        use_content_defined_chunking=True,
    ) as writer:  # fmt: skip
        for group in groups:
            part = rows.take(group)
            images = [_image(build, gesture, *pair) for pair in _pairs(part, "image_id", "sha256")]
            arrays = [pa.array(images, schema.field("image").type)] + [part[name] for name in schema.names[1:]]
            writer.write_table(pa.table(arrays, schema=schema), row_group_size=len(group))


def _leaves(schema: pa.Schema) -> list[str]:
    """Return the Parquet paths of a schema's leaves."""
    file = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), file)
    columns = pq.ParquetFile(pa.BufferReader(file.getvalue())).schema
    return [columns.column(index).path for index in range(len(columns))]


def _image(build: Path, gesture: str, image_id: str, sha256: str) -> dict[str, Any]:
    path = image_path(build, gesture, image_id)
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Unfinished(f"{path} is no longer the image that was measured: run `handdata build` again")
    return {"bytes": data, "path": f"{image_id}.jpg"}


def _manifest(build: Path, choice: Choice) -> pa.Table:
    """Return the manifest of the published rows alone, from which `fetch --manifest` gets the same images anywhere."""
    numbers = sorted(number for rows in choice.rows.values() for number in rows)
    table = read_manifest(build)
    public = {k: v for k, v in (table.schema.metadata or {}).items() if k == b"hand1000:image"}
    return table.take(numbers).replace_schema_metadata(public)


def describe_file(folder: Path, path: str, rows: int | None = None) -> File:
    """Return size and sha256 of a file."""
    with (folder / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return File(path, (folder / path).stat().st_size, digest, rows)


def _summary(key: str, choice: Choice, files: list[File]) -> dict[str, Any]:
    rows: dict[str, dict[str, int]] = {}
    for (gesture, split), numbers in choice.rows.items():
        rows.setdefault(gesture, {})[split] = len(numbers)
    groups = [
        {
            "gesture": key[0],
            "split": key[1],
            "spares_used": choice.spares_used[key],
            "reasons": dict(sorted(out.items())),
        }
        for key, out in choice.left_out.items()
        if out
    ]
    names = ("gesture", "split", "asked", "there")
    return {
        "key": key,
        "rows": rows,
        "shortfalls": [dict(zip(names, short, strict=True)) for short in choice.shortfalls],
        "left_out": groups,
        "closest_bits": choice.closest,
        "files": [asdict(file) for file in files],
    }


def _write_checksums(staging: Path, data: list[File]) -> None:
    rows = {file.path: file.rows for file in data}
    paths = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
    files = {path: asdict(describe_file(staging, path, rows.get(path))) for path in paths}
    listed = {path: {k: v for k, v in one.items() if k != "path" and v is not None} for path, one in files.items()}
    _write_text(staging / CHECKSUMS, checksums_text(listed))


def checksums_text(files: dict[str, dict[str, Any]]) -> str:
    """Return the content of `checksums.json`."""
    return json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n"


def _swap(new: Path, place: Path) -> None:
    """Put a finished folder in the place of an old one."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _input_key(build: Path, recipe: "Recipe") -> str:
    """Return a hash of all that decides what comes out; the images are in it by their sha256 in the stage `facts`."""
    from handdata.dataset import card
    from handdata.dataset.credits import fingerprints

    digest = hashlib.sha256(f"{VERSION} {card.VERSION} {pa.__version__}".encode())
    decided = build / "decisions.jsonl"
    digest.update(decided.read_bytes() if decided.is_file() else b"")
    tables = (recipe.select, recipe.image, recipe.assemble, recipe.publish)
    digest.update(repr((recipe.name, *tables, fingerprints(build))).encode())
    rows = read_manifest(build)
    digest.update((build / "manifest.parquet").read_bytes())
    for stage in STAGE_COLUMNS:
        for shard in range(shard_count(rows.num_rows)):
            path = shard_path(build, stage, shard)
            digest.update(path.read_bytes() if path.is_file() else b"missing")
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
