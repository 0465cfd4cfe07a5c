"""Removal of an image or a person from a build; the dataset is assembled again, ready to be published."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.builds.folder import BuildFolder
from handdata.errors import UserError
from handdata.rows import decisions
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import STAGE_COLUMNS
from handdata.rows.shards import SHARD_ROWS, image_path, shard_path, write_table
from handdata.stages import Execution, assemble


@dataclass(frozen=True)
class Dropped:
    """Result of a removal."""

    images: int  # number of removed images
    rows: int | None  # rows of the dataset now, None before it was first assembled


def drop(
    build: BuildFolder, image_id: str | None, subject: str | None, note: str | None = None, progress: bool = True
) -> Dropped:
    """Record the decision, remove the images and all columns computed from them, and assemble the dataset again.

    Raises `UserError` if both or neither is given, or no row of the build has that value.
    """
    if (image_id is None) == (subject is None):
        raise UserError("give either --image-id or --subject")
    with build.lock():
        rows = _rows(build.path, image_id, subject)
        decisions.append(build.path, [decisions.Decision("dropped", image_id, subject, note=note)])
        for number, row in rows.items():
            image_path(build.path, row["gesture"], row["image_id"]).unlink(missing_ok=True)
            _blank(build.path, number)
        (build.path / "review.html").unlink(missing_ok=True)  # it shows the texts; `handdata review` writes a new page
        if assemble.read_summary(build.path) is None:
            return Dropped(len(rows), None)
        return Dropped(len(rows), assemble.run(build.path, build.recipe, Execution(progress=progress)).rows)


def _rows(build: Path, image_id: str | None, subject: str | None) -> dict[int, dict[str, str]]:
    """Return the rows with that image id or subject by number, with their gesture and image id."""
    column, value = ("image_id", image_id) if image_id is not None else ("subject", subject)
    table = read_manifest(build, columns=["image_id", "gesture", "subject"]).to_pylist()
    rows = {number: row for number, row in enumerate(table) if row[column] == value}
    if not rows:
        option = f"--{column.replace('_', '-')}"
        raise UserError(f"{option} {value}: no row of {build} has that {column}; its manifest.parquet lists them")
    return rows


def _blank(build: Path, number: int) -> None:
    """Empty a row in the shards of all stages: columns computed from an image describe the person in it."""
    shard, place = divmod(number, SHARD_ROWS)
    for stage in STAGE_COLUMNS:
        path = shard_path(build, stage, shard)
        if not path.is_file():
            continue
        table = pq.read_table(path)
        rows = table.to_pylist()
        rows[place] = {"image_id": rows[place]["image_id"], "reason": "dropped"}
        write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
