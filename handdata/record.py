"""The rows: what the manifest, every stage and the published dataset hold, and how a shard is stored.

A build folder holds one row per selected image in `manifest.parquet`. A shard is 256 rows in manifest order, the same
number in every stage: `landmarks/00003.parquet` holds what the stage `landmarks` found in rows 768 to 1,023. A shard
appears by rename, so a file that is there is whole.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datasets import Features

SHARD_ROWS = 256
SPLITS = ("train", "validation", "test")

_BOXES = pa.list_(pa.list_(pa.float32()))

MANIFEST = pa.schema(
    [
        ("image_id", pa.string()),  # HaGRID's uuid, the file name without .jpg
        ("gesture", pa.string()),
        ("split", pa.string()),  # ours: train, validation or test
        ("rank", pa.int32()),  # place in the order of selection within gesture and split
        ("spare", pa.bool_()),  # True: takes the place of a row that fails
        ("subject", pa.string()),  # first 16 hex digits of sha256 of user_id
        ("hagrid_split", pa.string()),  # HaGRID's: train, val or test
        ("bboxes", _BOXES),  # [x, y, w, h] in fractions of the image, clipped to it
        ("labels", pa.list_(pa.string())),  # parallel to bboxes
        ("source", pa.string()),  # URL or path of the archive or folder
        ("member", pa.string()),  # name inside the archive, or path below the folder
        ("offset", pa.int64()),  # of the member's local header in the archive, -1 in a folder
        ("compressed_size", pa.int64()),  # bytes in the archive
        ("size", pa.int64()),  # bytes after inflating
        ("method", pa.int32()),  # zip's: 0 stored, 8 deflated; -1 in a folder
        ("crc32", pa.int64()),
    ]
)

# What each stage adds to the manifest's rows, besides `image_id` and `reason`. The order is the order of the flow.
STAGE_COLUMNS: dict[str, pa.Schema] = {
    "fetch": pa.schema(
        [
            ("sha256", pa.string()),  # of images/<gesture>/<image_id>.jpg as stored
            ("orig_width", pa.int32()),  # of the source member, orientation applied
            ("orig_height", pa.int32()),
        ]
    ),
    "facts": pa.schema(
        [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("bytes", pa.int64()),
            ("digest", pa.string()),  # sha256 of the stored file
            ("phash", pa.string()),  # perceptual hash, 16 hex digits: near-duplicates differ in few bits
        ]
    ),
    "landmarks": pa.schema(
        [
            ("hand_landmarks", pa.list_(pa.list_(pa.list_(pa.float32())))),  # (hands, 21, 3)
            ("handedness", pa.list_(pa.string())),
            ("handedness_score", pa.list_(pa.float32())),
            ("gesture_hand", pa.int32()),
            ("landmarks_in_box", pa.float32()),
        ]
    ),
    "captions": pa.schema([("caption", pa.string())]),
    "texts": pa.schema([("text", pa.string()), ("rewrite", pa.string()), ("draft_checks", pa.list_(pa.string()))]),
    "checks": pa.schema([("checks", pa.list_(pa.string()))]),
}

# Every reason for which a row can fail, with the sentence that `handdata status` prints for it.
REASONS: dict[str, str] = {
    "failed-earlier": "an earlier stage failed on this row",
    "rejected": "a person rejected it in the review",
    "subject-in-other-split": "its person is in another split of the dataset",
    "duplicate-in-other-split": "nearly the same picture is in another split of the dataset",
    "image-missing": "the image file is not in the build folder",
    "image-corrupt": "the image file cannot be decoded",
    "image-truncated": "the image file breaks off",
    "dropped": "a person asked to take the image or its subject out",
    "not-fetched": "no server gave the member, after all tries: run the same command again",
    "unsafe-name": "the member's name leaves its archive (../ or an absolute path)",
    "too-large": "larger than the limit: raise fetch.largest",
    "too-many-pixels": "more than 100 million pixels",
    "unsupported-member": "the member is encrypted or compressed by a method other than deflate",
    "wrong-header": "the archive holds something else where its directory says the member is",
    "wrong-crc": "the member's content does not have the CRC-32 that the archive states",
    "wrong-size": "the member's content has not the size that the archive states",
    "hand-not-found": "MediaPipe finds no hand in the image",
    "caption-empty": "the captioner said nothing about the image",
    "text-impossible": "no text with the gesture phrase and the caption's words fits 77 CLIP tokens",
}


def image_path(build: Path, gesture: str, image_id: str) -> Path:
    """Return where the stored image of a row lies."""
    return build / "images" / gesture / f"{image_id}.jpg"


def shard_path(build: Path, stage: str, shard: int) -> Path:
    """Return where a stage keeps its shard, `<build>/<stage>/00003.parquet`."""
    return build / stage / f"{shard:05d}.parquet"


def shard_count(rows: int) -> int:
    """Return how many shards hold that many rows."""
    return -(-rows // SHARD_ROWS)


def read_manifest(build: Path, shard: int | None = None, columns: list[str] | None = None) -> pa.Table:
    """Return the manifest's rows, or those of one shard, in manifest order."""
    table = pq.read_table(build / "manifest.parquet", columns=columns)
    return table if shard is None else table.slice(shard * SHARD_ROWS, SHARD_ROWS)


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a Parquet file that is whole or absent, even after a power cut. The same table gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            pq.write_table(table, file, compression="zstd", **options)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def features(gestures: list[str]) -> "Features":
    """Return the features of the published dataset, the contract with the trainer and the public.

    `gestures` are the names of the ClassLabel in the recipe's order.
    """
    from datasets import ClassLabel, Features, Image, List, Value

    text, integer, real = Value("string"), Value("int32"), Value("float32")
    return Features(
        {
            "image": Image(),
            "text": text,
            "caption": text,
            "gesture": ClassLabel(names=gestures),
            "gesture_phrase": text,
            "image_id": text,
            "subject": text,
            "hagrid_split": text,
            "width": integer,
            "height": integer,
            "orig_width": integer,
            "orig_height": integer,
            "bboxes": List(List(real)),
            "labels": List(text),
            "hand_landmarks": List(List(List(real))),
            "handedness": List(text),
            "handedness_score": List(real),
            "gesture_hand": integer,
            "landmarks_in_box": real,
            "rewrite": text,
            "checks": List(text),
            "source": text,
            "member": text,
            "crc32": Value("int64"),
            "sha256": text,
        }
    )
