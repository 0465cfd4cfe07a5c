"""Describe the dataset in Croissant (MLCommons, version 1.1) with the fields of its responsible-AI vocabulary."""

from typing import Any

import pyarrow as pa

_PAPER = "https://arxiv.org/abs/2408.15461"
_TYPES = {
    pa.string(): "sc:Text",
    pa.int32(): "cr:Int32",
    pa.int64(): "cr:Int64",
    pa.float32(): "cr:Float32",
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
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


def describe(name: str, words: dict[str, str], files: list[dict[str, Any]], schema: pa.Schema) -> dict[str, Any]:
    """Return `croissant.json` as a dict.

    `words`: the card's paragraphs (description, licence, url, and `rai:...` fields). `files`: path, bytes and sha256 of
    the Parquet files. The record set reads all of them.
    """
    objects = [_file(file) for file in files]
    together = {
        "@type": "cr:FileSet",
        "@id": "parquet",
        "name": "parquet",
        "description": "all Parquet files: data/<gesture>/<split>-*.parquet",
        "encodingFormat": "application/x-parquet",
        "includes": "data/*/*.parquet",
    }
    fields = [_field(field) for field in schema]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": name,
        "citeAs": _PAPER,
        "version": "1.0.0",
        "isLiveDataset": False,
        "inLanguage": "en",
        **words,
        "distribution": [*objects, together],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "description": "one row per photograph",
                "key": {"@id": "rows/image_id"},
                "field": fields,
            }
        ],
    }


def _file(file: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file["path"],
        "name": file["path"],
        "contentUrl": file["path"],
        "contentSize": f"{file['bytes']} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file["sha256"],
    }


def _field(field: pa.Field) -> dict[str, Any]:
    kind, depth = field.type, 0
    while pa.types.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    found: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"rows/{field.name}",
        "name": field.name,
        "description": COLUMNS[field.name],
        "dataType": "sc:ImageObject" if field.name == "image" else _TYPES[kind],
        "source": {"fileSet": {"@id": "parquet"}, "extract": {"column": field.name}},
    }
    if field.name == "image":
        found["source"]["transform"] = {"jsonPath": "bytes"}
    if depth:
        found |= {"isArray": True, "arrayShape": ",".join(["-1"] * depth)}
    return found
