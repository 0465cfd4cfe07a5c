"""The columns: what the manifest, every stage and the published dataset hold, and what each column means."""

from typing import TYPE_CHECKING

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


# What the columns are, in words; the card prints the same table.
COLUMNS: dict[str, str] = {
    "image": "the photograph, as JPEG: upright, without EXIF, short side at most as the recipe says, never enlarged",
    "text": "the hand-aware prompt: one sentence that holds `gesture_phrase` exactly once, at most 77 CLIP tokens",
    "caption": "the captioner's own words",
    "gesture": "the gesture, by HaGRID's name",
    "gesture_phrase": "our words for the gesture",
    "image_id": "HaGRID's id of the image",
    "subject": "the person, as the first 16 hex digits of the sha256 of HaGRID's user id",
    "hagrid_split": "HaGRID's own split",
    "width": "of `image`, in pixels",
    "height": "of `image`, in pixels",
    "orig_width": "of the photograph in HaGRID's archive, upright",
    "orig_height": "of the photograph in HaGRID's archive, upright",
    "bboxes": "HaGRID's boxes of hands, [x, y, width, height] in fractions of the image",
    "labels": "what each box shows: a gesture, or no_gesture",
    "hand_landmarks": "hands x 21 x (x, y, z), found by MediaPipe on `image`; x, y in fractions of it",
    "handedness": "each found hand: the person's own Left or Right, if the photograph is not mirrored",
    "handedness_score": "MediaPipe's score for that",
    "gesture_hand": "which of the found hands makes the gesture, -1 if none",
    "landmarks_in_box": "share of that hand's landmarks inside the box labelled with the gesture",
    "rewrite": "how `text` was made: llm, kept (the caption already fitted), template (after all tries failed), edited",
    "checks": "what the caption and rejected drafts failed, and remarks on the image",
    "source": "the archive the image came from",
    "member": "its name in there",
    "crc32": "the CRC-32 of that member",
    "sha256": "of the bytes in `image`",
}


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
