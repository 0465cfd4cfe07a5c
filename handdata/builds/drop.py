"""Take an image or a person out of a build, everywhere, and make the dataset ready to publish again."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from handdata.builds.build import How, locked, open_recipe
from handdata.errors import UserError
from handdata.rows import decisions
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import STAGE_COLUMNS
from handdata.rows.shards import SHARD_ROWS, image_path, shard_path, write_table
from handdata.stages import assemble


@dataclass(frozen=True)
class Dropped:
    """What was taken out, and what the dataset holds now (None: it had not been assembled)."""

    images: int
    rows: int | None


def drop(
    build: Path, image_id: str | None, subject: str | None, note: str | None = None, progress: bool = True
) -> Dropped:
    """Note the decision, remove the images and what the stages found on them, and assemble the dataset anew.

    Raises `UserError` if both or neither is given, or no row of the build is meant.
    """
    if (image_id is None) == (subject is None):
        raise UserError("give either --image-id or --subject")
    recipe = open_recipe(build)
    with locked(build):
        rows = _find(build, image_id, subject)
        decisions.append(build, [decisions.Decision("dropped", image_id, subject, note=note)])
        for number, gesture, name in rows:
            image_path(build, gesture, name).unlink(missing_ok=True)
            _blank(build, number)
        (build / "review.html").unlink(missing_ok=True)  # it shows pictures; `handdata review` writes it anew
        if assemble.read_summary(build) is None:
            return Dropped(len(rows), None)
        return Dropped(len(rows), assemble.run(build, recipe, How(progress=progress)).rows)


def _find(build: Path, image_id: str | None, subject: str | None) -> list[tuple[int, str, str]]:
    """Return number, gesture and image id of the rows that are meant."""
    table = read_manifest(build, columns=["image_id", "gesture", "subject"])
    column, value = ("image_id", image_id) if image_id is not None else ("subject", subject)
    rows = zip(table[column].to_pylist(), table["gesture"].to_pylist(), table["image_id"].to_pylist(), strict=True)
    found = [(number, gesture, name) for number, (have, gesture, name) in enumerate(rows) if have == value]
    if not found:
        option = "--image-id" if image_id is not None else "--subject"
        raise UserError(f"{option} {value}: no row of {build} has that {column}; its manifest.parquet lists them")
    return found


def _blank(build: Path, number: int) -> None:
    """Empty a row in the shards of all stages: what was found on an image says something about who is on it."""
    shard, place = divmod(number, SHARD_ROWS)
    for stage in STAGE_COLUMNS:
        path = shard_path(build, stage, shard)
        if not path.is_file():
            continue
        table = pq.read_table(path)
        rows = table.to_pylist()
        rows[place] = {"image_id": rows[place]["image_id"], "reason": "dropped"}
        write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
