"""The columns of the manifest, of every stage and of the published dataset, and their meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Features

HAGRID_SPLITS = {"train": "train", "validation": "val", "test": "test"}  # HaGRID's name of each of our splits
SPLITS = tuple(HAGRID_SPLITS)

_BOXES = pa.list_(pa.list_(pa.float32()))

MANIFEST = pa.schema(
    [
        ("image_id", pa.string()),  # HaGRID's uuid, the file name without .jpg
        ("gesture", pa.string()),
        ("split", pa.string()),  # ours: train, validation or test
        ("rank", pa.int32()),  # place in the order of selection within gesture and split
        ("spare", pa.bool_()),  # True: replaces a row that fails
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

# The columns that each stage adds to the manifest's rows, besides `image_id` and `reason`, in the order of the stages.
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


def shard_schema(stage: str) -> pa.Schema:
    """Return the columns of a stage's shards: `image_id`, the stage's own, `reason`."""
    return pa.schema([("image_id", pa.string()), *STAGE_COLUMNS[stage], ("reason", pa.string())])


# Every reason for which a row can fail, with the explanation that `handdata status` prints for it.
REASONS: dict[str, str] = {
    "failed-earlier": "an earlier stage failed on this row",
    "rejected": "rejected by a person in the review",
    "subject-in-other-split": "its person is in another split of the dataset",
    "duplicate-in-other-split": "a near-duplicate is in another split of the dataset",
    "image-missing": "the image file is not in the build folder",
    "image-corrupt": "the image file cannot be decoded",
    "image-truncated": "the image file is truncated",
    "dropped": "the removal of the image or its subject was requested",
    "not-fetched": "no server returned the member, after all tries: run the same command again",
    "unsafe-name": "the member's name leaves its archive (../ or an absolute path)",
    "too-large": "larger than the limit: raise fetch.largest",
    "too-many-pixels": "more than 100 million pixels",
    "odd-shape": "a side is shorter than 16 pixels, or one side more than 16 times as long as the other",
    "unsupported-member": "the member is encrypted or compressed by a method other than deflate",
    "wrong-header": "the archive does not hold the member at the offset in its directory",
    "wrong-crc": "the member's content does not have the CRC-32 that the archive states",
    "wrong-size": "the member's content does not have the size that the archive states",
    "hand-not-found": "MediaPipe finds no hand in the image",
    "caption-empty": "the captioner returned an empty caption",
    "caption-timeout": "the captioner's server did not answer in time: run the same command again",
    "text-impossible": "no text with the gesture phrase and the caption's words fits 77 CLIP tokens",
}


@dataclass(frozen=True)
class Column:
    """A column of the published dataset."""

    type: str  # `image`, `class` (the gesture), a type of Arrow, or a list of one of these: `list<float32>`
    meaning: str


# The published dataset, in the order of its columns; the card prints the meanings.
COLUMNS = {
    "image": Column("image", "photograph, a JPEG: upright, sRGB, without EXIF, scaled down to the recipe's short side"),
    "text": Column("string", "hand-aware prompt: one sentence, `gesture_phrase` exactly once, at most 77 CLIP tokens"),
    "caption": Column("string", "caption as the captioner wrote it"),
    "gesture": Column("class", "gesture, by HaGRID's name"),
    "gesture_phrase": Column("string", "our words for the gesture"),
    "image_id": Column("string", "HaGRID's id of the image"),
    "subject": Column("string", "person, as the first 16 hex digits of the sha256 of HaGRID's user id"),
    "hagrid_split": Column("string", "HaGRID's own split"),
    "width": Column("int32", "width of `image`, in pixels"),
    "height": Column("int32", "height of `image`, in pixels"),
    "orig_width": Column("int32", "width of the photograph in HaGRID's archive, upright"),
    "orig_height": Column("int32", "height of the photograph in HaGRID's archive, upright"),
    "bboxes": Column("list<list<float32>>", "HaGRID's boxes of hands, [x, y, width, height] in fractions of the image"),
    "labels": Column("list<string>", "label of each box: a gesture, or no_gesture"),
    "hand_landmarks": Column(
        "list<list<list<float32>>>", "hands x 21 x (x, y, z), found by MediaPipe on `image`; x, y in fractions of it"
    ),
    "handedness": Column("list<string>", "each detected hand: the person's own Left or Right in an unmirrored image"),
    "handedness_score": Column("list<float32>", "MediaPipe's score of the handedness"),
    "gesture_hand": Column("int32", "index of the detected hand that makes the gesture, -1 if none does"),
    "landmarks_in_box": Column("float32", "share of that hand's landmarks inside the box labelled with the gesture"),
    "rewrite": Column("string", "origin of `text`: llm, kept (the caption fits), template (no draft passed), edited"),
    "checks": Column("list<string>", "checks that the caption and rejected drafts failed, and remarks on the image"),
    "source": Column("string", "archive that the image came from"),
    "member": Column("string", "name of the image in that archive"),
    "crc32": Column("int64", "CRC-32 of that member"),
    "sha256": Column("string", "sha256 of the bytes in `image`"),
}  # fmt: skip


def features(gestures: list[str]) -> "Features":
    """Return the features of the published dataset, the contract with the trainer and the public.

    `gestures` are the names of the ClassLabel in the recipe's order.
    """
    return features_of(COLUMNS, gestures)


def features_of(columns: Mapping[str, Column], gestures: list[str]) -> "Features":
    """Return the features of a dataset with these columns."""
    from datasets import ClassLabel, Features, Image, List, Value

    def feature(kind: str) -> Any:
        if kind.startswith("list<"):
            return List(feature(kind[len("list<") : -1]))
        return {"image": Image(), "class": ClassLabel(names=gestures)}.get(kind) or Value(kind)

    return Features({name: feature(column.type) for name, column in columns.items()})
