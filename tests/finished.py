"""Build folders whose stages are done, written by hand: all files that `assemble` and later steps read."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from handdata.gestures import gestures
from handdata.recipe import AssembleOptions, PublishOptions, Recipe, SelectOptions, SourceOptions, dump
from handdata.rows.schema import MANIFEST, SPLITS, STAGE_COLUMNS
from handdata.rows.shards import SHARD_ROWS, image_path, shard_count, shard_path, write_table
from handdata.stages import Execution
from handdata.vision.similarity import perceptual_hash
from tests.builds import draw_jpeg

QUIET = Execution(progress=False)
COUNTS = {"train": 6, "validation": 2, "test": 4}
SPARES = 2  # per gesture and split


def finished_build(
    folder: Path,
    counts: dict[str, int] = COUNTS,
    names: tuple[str, ...] = ("call", "ok"),
    failed: dict[int, tuple[str, str]] | None = None,
    size: int = 64,
    spares: int = SPARES,
    kind: str = "render",
    like: dict[int, int] | None = None,
) -> Path:
    """Write a build with manifest, images and the shards of all stages.

    `failed`: number of a row to (stage, reason). `like`: number of a row to that of the row whose picture it shows.
    """
    rows = _manifest_rows(counts, names, spares)
    write_table(pa.Table.from_pylist(rows, schema=MANIFEST), folder / "manifest.parquet")
    for number, row in enumerate(rows):
        path = image_path(folder, row["gesture"], row["image_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_jpeg((like or {}).get(number, number), size))
    for stage, schema in STAGE_COLUMNS.items():
        for shard in range(shard_count(len(rows))):
            first = shard * SHARD_ROWS
            part = enumerate(rows[first : first + SHARD_ROWS], first)
            lines = [_stage_row(folder, stage, number, row, (failed or {}).get(number)) for number, row in part]
            kinds = pa.schema([("image_id", pa.string()), *schema, ("reason", pa.string())])
            write_table(pa.Table.from_pylist(lines, schema=kinds), shard_path(folder, stage, shard))
    (folder / "recipe.toml").write_text(dump(recipe(counts, names, kind)))
    return folder


def recipe(counts: dict[str, int] = COUNTS, names: tuple[str, ...] = ("call", "ok"), kind: str = "render") -> Recipe:
    """Return the recipe of such a build."""
    return Recipe(
        name="drawn",
        source=SourceOptions(kind=kind),
        select=SelectOptions(gestures=names, **counts),
        assemble=AssembleOptions(),
        publish=PublishOptions(),
    )


def _manifest_rows(counts: dict[str, int], names: tuple[str, ...], spares: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for rank in range(max(counts.values()) + spares):
        for gesture in names:
            for split in SPLITS:
                if rank < counts[split] + (spares if counts[split] else 0):
                    rows.append(_manifest_row(len(rows), gesture, split, rank, rank >= counts[split]))
    return rows


def _manifest_row(number: int, gesture: str, split: str, rank: int, spare: bool) -> dict[str, Any]:
    digest = hashlib.sha256(str(number).encode()).hexdigest()  # so that the order of ids is not that of the manifest
    return {
        "image_id": f"{digest[:8]}-0000-4000-8000-{number:012d}",
        "gesture": gesture,
        "split": split,
        "rank": rank,
        "spare": spare,
        "subject": digest[8:24],
        "hagrid_split": {"validation": "val"}.get(split, split),
        "bboxes": [[0.25, 0.2, 0.5, 0.4], [0.0, 0.0, 0.1, 0.125]],
        "labels": [gesture, "no_gesture"],
        "source": f"{gesture}.zip",
        "member": f"{gesture}/{number}.jpg",
        "offset": number * 1000,
        "compressed_size": 900,
        "size": 900,
        "method": 0,
        "crc32": number,
    }


def _stage_row(
    folder: Path, stage: str, number: int, row: dict[str, Any], failed: tuple[str, str] | None
) -> dict[str, Any]:
    stages = list(STAGE_COLUMNS)
    line = {"image_id": row["image_id"], "reason": None}
    if failed and stages.index(stage) >= stages.index(failed[0]):
        return {**line, "reason": failed[1] if stage == failed[0] else "failed-earlier"}
    return line | _VALUES.get(stage, lambda *_: {})(folder, number, row)


def _image_values(folder: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    data = image_path(folder, row["gesture"], row["image_id"]).read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        size, phash = image.size, perceptual_hash(image)
    digest = hashlib.sha256(data).hexdigest()
    return {
        "sha256": digest, "orig_width": 2 * size[0], "orig_height": 2 * size[1],
        "width": size[0], "height": size[1], "bytes": len(data), "digest": digest, "phash": phash,
    }  # fmt: skip


def _hand_values(folder: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    points = np.random.default_rng(number).uniform(0.25, 0.6, (21, 3)).astype(np.float32)
    detected = number % 7 != 3  # some images have no detected hand
    return {
        "hand_landmarks": [points.tolist()] if detected else [],
        "handedness": ["Left"] if detected else [],
        "handedness_score": [0.875] if detected else [],
        "gesture_hand": 0 if detected else -1,
        "landmarks_in_box": (number % 5 + 16) / 21 if detected else None,
    }


def _text_values(folder: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    phrase, kind = gestures()[row["gesture"]].phrase, ("llm", "kept", "template")[number % 3]
    colour = ("red", "blue", "green", "grey")[number % 4]
    text = f"a person in a {colour} shirt {phrase} in front of a wall."
    return {"text": text, "rewrite": kind, "draft_checks": ["caption:phrase-missing"] if kind == "llm" else []}


_VALUES: dict[str, Any] = {  # the columns of a stage that is not here are null
    "fetch": _image_values,
    "facts": _image_values,
    "landmarks": _hand_values,
    "captions": lambda folder, number, row: {"caption": f"a person in a shirt, number {number}"},
    "texts": _text_values,
    "checks": lambda folder, number, row: {"checks": ["image:no-hand"] if number % 7 == 3 else []},
}
