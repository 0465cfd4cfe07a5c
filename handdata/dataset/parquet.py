"""The Parquet files of the dataset: `data/<gesture>/<split>-00000-of-00003.parquet`. Equal rows give equal bytes."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.dataset.checksums import File, describe_file
from handdata.errors import Unfinished
from handdata.progress import bar
from handdata.recipe import AssembleOptions
from handdata.rows.publication import Choice
from handdata.rows.schema import features
from handdata.rows.shards import image_path

_GROUP_ROWS = 100  # the size that the Hub's viewer reads quickly


def write_data(
    build: Path, folder: Path, rows: pa.Table, choice: Choice, options: AssembleOptions, progress: bool
) -> list[File]:
    """Write the chosen rows of a build below `folder`; return the files.

    `rows` has the published columns except `image`, and `bytes`, the size of each image. Raises `Unfinished` if an
    image differs from its `sha256`.
    """
    schema = features(list(choice.gestures)).arrow_schema
    sizes = rows["bytes"].to_numpy()
    total, files = sum(map(len, choice.rows.values())), []
    with bar(total=total, desc="assemble", unit="row", show=progress) as shown:
        for (gesture, split), numbers in sorted(choice.rows.items()):
            parts = _cut(numbers, sizes, options.file_bytes, len(numbers))
            for index, part in enumerate(parts):
                path = f"data/{gesture}/{split}-{index:05d}-of-{len(parts):05d}.parquet"
                groups = _cut(part, sizes, options.group_bytes, _GROUP_ROWS)
                _write_file(build, folder / path, rows, groups, schema, gesture)
                files.append(describe_file(folder, path, len(part)))
                shown.update(len(part))
    return files


def _cut(numbers: list[int], sizes: Any, most_bytes: int, most_rows: int) -> list[list[int]]:
    """Cut row numbers into runs of at most so many image bytes and rows; a larger row has a run of its own."""
    runs: list[list[int]] = []
    run_bytes = 0
    for number in numbers:
        if not runs or run_bytes + sizes[number] > most_bytes or len(runs[-1]) == most_rows:
            runs.append([])
            run_bytes = 0
        runs[-1].append(number)
        run_bytes += sizes[number]
    return runs


def _write_file(
    build: Path, path: Path, rows: pa.Table, groups: list[list[int]], schema: pa.Schema, gesture: str
) -> None:
    """Write one Parquet file, a row group at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    repeating = ["text", "gesture", "gesture_phrase", "hagrid_split", "rewrite", "source", "labels.list.element"]
    with open_writer(path, schema, repeating) as writer:
        for group in groups:
            part = rows.take(group)
            pairs = zip(part["image_id"].to_pylist(), part["sha256"].to_pylist(), strict=True)
            images = [_image(build, gesture, image_id, sha256) for image_id, sha256 in pairs]
            arrays = [pa.array(images, schema.field("image").type)] + [part[name] for name in schema.names[1:]]
            writer.write_table(pa.table(arrays, schema=schema), row_group_size=len(group))


def open_writer(path: Path, schema: pa.Schema, repeating: list[str]) -> pq.ParquetWriter:
    """Return a writer of a published file; the columns `repeating` have few values."""
    # JPEGs do not compress; pages are cut by content, so that a changed row leaves the other rows' chunks unchanged
    codecs = {leaf: "none" if leaf.endswith(".bytes") else "zstd" for leaf in _leaves(schema)}
    return pq.ParquetWriter(
        path, schema, compression=codecs, use_dictionary=repeating, write_page_index=True,
        use_content_defined_chunking=True,
    )  # fmt: skip


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
        raise Unfinished(f"{path} has changed since it was measured: run `handdata build` again")
    return {"bytes": data, "path": f"{image_id}.jpg"}
