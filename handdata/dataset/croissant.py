"""Describe the dataset in Croissant (MLCommons, version 1.1) with the fields of its responsible-AI vocabulary."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from handdata.rows.schema import COLUMNS

_PAPER = "https://arxiv.org/abs/2408.15461"
_TYPES = {
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
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


def describe(
    name: str,
    words: dict[str, Any],
    files: list[dict[str, Any]],
    schema: pa.Schema,
    meanings: Mapping[str, str],
    row: str = "one row per photograph",
    key: str = "image_id",
) -> dict[str, Any]:
    """Return `croissant.json` as a dict.

    `words`: the card's paragraphs (description, licence, url, and `rai:...` fields). `files`: path, bytes and sha256 of
    the Parquet files. The record set reads all of them. `meanings` are those of columns that differ from `COLUMNS`.
    `row` is what a row is, `key` the column that identifies it.
    """
    parquet = {
        "@type": "cr:FileSet",
        "@id": "parquet",
        "name": "parquet",
        "description": "all Parquet files: data/<gesture>/<split>-*.parquet",
        "encodingFormat": "application/x-parquet",
        "includes": "data/*/*.parquet",
    }
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
        "distribution": [*map(_file, files), parquet],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "description": row,
                "key": {"@id": f"rows/{key}"},
                "field": [_field(field, meanings) for field in schema],
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


def _field(field: pa.Field, meanings: Mapping[str, str]) -> dict[str, Any]:
    kind, depth = field.type, 0
    while pa.types.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    entry: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"rows/{field.name}",
        "name": field.name,
        "description": meanings.get(field.name) or COLUMNS[field.name].meaning,
        "dataType": "sc:ImageObject" if pa.types.is_struct(kind) else _TYPES[kind],
        "source": {"fileSet": {"@id": "parquet"}, "extract": {"column": field.name}},
    }
    if pa.types.is_struct(kind):
        entry["source"]["transform"] = {"jsonPath": "bytes"}
    if depth:
        entry |= {"isArray": True, "arrayShape": ",".join(["-1"] * depth)}
    return entry
