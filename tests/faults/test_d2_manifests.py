"""Fault D2, foreign manifests: one sentence for whatever no manifest of ours has."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handdata.builds.folder import BuildFolder
from handdata.errors import UserError
from handdata.rows.manifest import IMAGE, SOURCES
from handdata.rows.schema import MANIFEST

PLACE = "https://host.example/x.zip"
FACTS = {"places": [PLACE], "length": 5000, "identities": {PLACE: '"1"'}, "directory": "ab"}


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    made = {
        "image_id": f"{number:08x}-0000", "gesture": "call", "split": "train", "rank": number, "spare": False,
        "subject": "0123456789abcdef", "hagrid_split": "train", "bboxes": [[0.25, 0.25, 0.5, 0.5]], "labels": ["call"],
        "source": PLACE, "member": f"call/{number}.jpg", "offset": 10, "compressed_size": 100, "size": 100,
        "method": 0, "crc32": 7,
    }  # fmt: skip
    return {**made, **changes}


def written(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = MANIFEST, **metadata: Any) -> Path:
    stored = {"hand1000:sources": json.dumps({PLACE: FACTS}), **metadata}
    table = pa.Table.from_pylist(rows, schema=schema).replace_schema_metadata({k: v for k, v in stored.items() if v})
    pq.write_table(table, path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        BuildFolder.from_manifest(path, path.parent / "out")
    assert not (path.parent / "out").exists(), "nothing is written for it"
    return str(raised.value)


def test_d2_an_undamaged_manifest_is_accepted_in_types_of_other_widths(tmp_path):
    wide = {pa.int64(): pa.int16(), pa.string(): pa.large_string(), pa.int32(): pa.int64()}
    schema = pa.schema([(field.name, wide.get(field.type, field.type)) for field in MANIFEST])
    rows = [row(0, crc32=7), row(1, crc32=9)]
    emptied = row(2, subject="", hagrid_split="", bboxes=[], labels=[], source="", member="", offset=0)
    path = written(tmp_path / "m.parquet", [*rows, emptied], schema)
    build = BuildFolder.from_manifest(path, tmp_path / "out")
    table = pq.read_table(build.path / "manifest.parquet")
    assert table.to_pylist() == rows and table.schema.equals(MANIFEST, check_metadata=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_id": None}, {"image_id": "a/b"}, {"image_id": "../../x"}, {"image_id": "x" * 300}, {"image_id": ""},
        {"gesture": "waving"}, {"gesture": None}, {"gesture": ".."}, {"split": "val"}, {"hagrid_split": "dev"},
        {"rank": -1}, {"rank": None}, {"spare": None}, {"subject": ""}, {"subject": "a b"}, {"subject": None},
        {"bboxes": None}, {"bboxes": [None]}, {"bboxes": [[0.1, 0.2, 0.3]]}, {"bboxes": [[0.0, 0.0, math.nan, 1.0]]},
        {"bboxes": [[0.5, 0.5, 0.6, 0.1]]}, {"bboxes": [[-0.5, 0.0, 0.9, 0.1]]}, {"bboxes": [[0.1, 0.1, 0.0, 0.1]]},
        {"bboxes": [[0.1, 0.1, None, 0.1]]}, {"bboxes": []}, {"labels": [None]}, {"labels": ["call", "ok"]},
        {"source": None}, {"source": "https://elsewhere/x.zip"}, {"member": ""}, {"member": None}, {"member": "a\0b"},
        {"offset": -2}, {"offset": (1 << 63) - 1}, {"offset": -1}, {"compressed_size": -1}, {"size": None},
        {"size": (1 << 63) - 1}, {"method": -1}, {"method": 1 << 20}, {"crc32": -1}, {"crc32": 1 << 40},
    ],
    ids=repr,
)  # fmt: skip
def test_d2_a_row_with_an_impossible_value_is_named(tmp_path, changes):
    sentence = refused(written(tmp_path / "m.parquet", [row(0), row(1, **changes)]))
    assert str(tmp_path / "m.parquet") in sentence and "\n" not in sentence and len(sentence) < 600


def test_d2_an_image_that_stands_twice_is_named(tmp_path):
    assert "also that of row 0" in refused(written(tmp_path / "m.parquet", [row(0), row(0, gesture="ok")]))


@pytest.mark.parametrize("column", MANIFEST.names)
@pytest.mark.parametrize("kind", ["missing", "binary", "bool or int", "struct"])
def test_d2_a_column_that_is_missing_or_of_another_type_is_named(tmp_path, column, kind):
    position = MANIFEST.get_field_index(column)
    other = pa.int8() if MANIFEST.field(column).type == pa.bool_() else pa.bool_()
    kinds = {"binary": pa.binary(), "bool or int": other, "struct": pa.struct([("a", pa.int8())])}
    table = pa.Table.from_pylist([row(0)], schema=MANIFEST)
    table = table.remove_column(position)
    if kind != "missing":
        table = table.add_column(position, column, pa.nulls(1, kinds[kind]))
    pq.write_table(table.replace_schema_metadata({SOURCES: json.dumps({PLACE: FACTS})}), tmp_path / "m.parquet")
    assert f"'{column}'" in refused(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    "facts",
    [
        None, b"", b"[]", b"{", b"\xff\xfe", b"[" * 5000, b"{}", b'{"x": 1}', json.dumps({PLACE: []}).encode(),
        *(json.dumps({PLACE: {**FACTS, **change}}).encode() for change in (
            {"places": []}, {"places": None}, {"places": [1]}, {"places": [""]}, {"places": "https://host/x.zip"},
            {"places": ["http://[::1"]}, {"places": ["https://host:99999/x"]}, {"places": ["https://" + "a" * 300]},
            {"places": ["http://a..b/x"]}, {"places": ["http:///x"]}, {"places": ["https://h/\ud800"]},
            {"places": ["a\0b"]}, {"length": -1}, {"length": 1 << 64}, {"length": True}, {"length": "5"},
            {"length": 1e300}, {"identities": []}, {"identities": {PLACE: 1}}, {"identities": None}, {"directory": 5},
        )),
    ],
)  # fmt: skip
def test_d2_sources_that_are_no_sources_get_a_sentence(tmp_path, facts):
    refused(written(tmp_path / "m.parquet", [row(0)], **{"hand1000:sources": facts}))


@pytest.mark.parametrize("image", [b"[]", b"{", b'{"quality": "high"}', b'{"sharpness": 3}', b'{"short_side": 1.5}'])
def test_d2_image_options_that_are_none_get_a_sentence(tmp_path, image):
    refused(written(tmp_path / "m.parquet", [row(0)], **{IMAGE.decode(): image}))


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "csv", "half"])
def test_d2_a_file_that_is_not_parquet_gets_a_sentence(tmp_path, kind):
    path = written(tmp_path / "m.parquet", [row(0)])
    data = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"{}", "csv": b"image_id\nx\n", "half": data[: len(data) // 2]}[kind])
    refused(path)


def test_d2_flipped_bytes_of_a_manifest_are_accepted_or_a_sentence(tmp_path):
    path = written(tmp_path / "m.parquet", [row(number) for number in range(5)])
    data = path.read_bytes()
    for seed in range(60):
        chance, damaged = random.Random(seed), bytearray(data)
        for _ in range(8):
            damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            BuildFolder.from_manifest(path, tmp_path / f"out{seed}")
        except UserError as error:
            assert str(error)
