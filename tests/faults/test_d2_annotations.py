"""Fault D2, annotations: a record with odd values is left out and counted; a file that is none gets a sentence."""

import json
import random
from typing import Any

import pytest

from handdata.errors import UserError
from handdata.files import write_json
from handdata.rows.oddities import ODDITIES
from handdata.sources.annotations import TABLE, AnnotationFile, parse
from handdata.sources.archive import Entry
from tests.hagrid import record

CALL = AnnotationFile(Entry("annotations/train/call.json", 0, 0, 1, 1, 0), "call", "train")
HUGE = "1" + "0" * 450


def text(**changes: str) -> bytes:
    """Return a file of a good record and one with fields as they are given, in JSON."""
    fields = {name: json.dumps(value) for name, value in record("call", "user").items()} | changes
    odd = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
    return f'{{"odd": {odd}, "good": {json.dumps(record("call", "other"))}}}'.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("no-gesture", {"bboxes": f"[[0.1, 0.1, {HUGE}, 0.1]]"}),
        ("no-gesture", {"bboxes": "[[-" + "9" * 5000 + ", 0.1, 0.2, 0.1]]"}),
        ("no-gesture", {"bboxes": "[[NaN, 0.1, 0.2, 0.1]]"}),
        ("no-gesture", {"bboxes": "[[0.1, 0.1, Infinity, 0.1]]"}),
        ("no-gesture", {"bboxes": "[[0.1, 0.1, 1e999, 0.1]]"}),
        ("no-gesture", {"bboxes": '[["0.1", "0.1", "0.2", "0.1"]]'}),
        ("no-gesture", {"bboxes": "[[true, true, true, true]]"}),
        ("no-gesture", {"bboxes": "[[0.1, 0.1, 0.2]]"}),
        ("no-gesture", {"bboxes": "[[0.1, 0.1, 0.2, 0.1, 0.3]]"}),
        ("no-gesture", {"bboxes": "[{}]"}),
        ("no-gesture", {"bboxes": "[null]"}),
        ("no-gesture", {"bboxes": "[[1e-60, 1e-60, 1e-60, 1e-60]]"}),
        ("not-a-record", {"bboxes": '{"0": [0.1, 0.1, 0.2, 0.1]}'}),
        ("not-a-record", {"bboxes": "7"}),
        ("uneven-boxes", {"labels": '"call"'}),
        ("uneven-boxes", {"labels": "[]"}),
        ("bad-label", {"labels": "[null]"}),
        ("bad-label", {"labels": "[5]"}),
        ("bad-label", {"labels": '[["call"]]'}),
        ("bad-label", {"labels": r'["\udc80"]'}),
        ("no-subject", {"user_id": r'"\ud800"'}),
        ("no-subject", {"user_id": "17"}),
        ("no-subject", {"user_id": '["a"]'}),
    ],
)
def test_d2_an_odd_record_is_left_out_and_counted(kind, changes):
    table, odd = parse(text(**changes), CALL)
    assert table["image_id"].to_pylist() == ["good"] and odd.counts[kind] == 1


@pytest.mark.parametrize(
    "value", ["5", '"x"', '{"a": 1}', "[7]", "[[1]]", "[[null, null, null, null]]", "true", "[[], []]"]
)
@pytest.mark.parametrize("field", ["united_bbox", "united_label"])
def test_d2_an_odd_united_box_is_none(field, value):
    united = {"united_bbox": "[[0.1, 0.1, 0.2, 0.2]]", "united_label": '["call"]', "labels": '["no_gesture"]'}
    table, _ = parse(text(**{**united, field: value}), CALL)
    assert table["image_id"].to_pylist() == ["good"]


def test_d2_names_of_any_characters_can_be_stored_and_printed(tmp_path, capsys):
    name = r"\ud83dé\u001b[31m\n"
    table, odd = parse(f'{{"{name}": {json.dumps(record("call", "u"))}}}'.encode(), CALL)
    assert odd.counts == {"bad-image-id": 1} and table.num_rows == 0
    write_json(tmp_path / "run.json", odd.examples)
    for line in odd.lines():
        assert line.isprintable()
        print(line.encode().decode())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xfe\x00", b"nothing", b"[]", b"null", b"7", b"[" * 100_000, b'{"a":' * 50_000, b'{"a": 1',
        b'{"a": "\xe9"}', "{}".encode("utf-16")[:5], b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=range(12),
)  # fmt: skip
def test_d2_a_file_that_is_no_table_of_records_gets_a_sentence(data):
    with pytest.raises(UserError, match=r"annotations/train/call\.json"):
        parse(data, CALL)


@pytest.mark.parametrize("code", ["utf-8-sig", "utf-16", "utf-32"])
def test_d2_other_encodings_of_json_are_read(code):
    table, _ = parse(text().decode().encode(code), CALL)
    assert table["image_id"].to_pylist() == ["odd", "good"]


ATOMS: tuple[Any, ...] = (
    None, True, 0, -1, 0.5, 1e308, float("nan"), float("inf"), 10**17, "", "call", "no_gesture", "\udfff", [], {}, [[]],
    [0.1, 0.2, 0.3, 0.4], [0.9, 0.9, 5, 5], ["call"], ["call", "call"],
)  # fmt: skip


def test_d2_three_thousand_random_records_are_rows_of_the_table_or_counted():
    chance = random.Random(0)
    for _ in range(300):
        records = {}
        for number in range(10):
            made: Any = record("call", "u")
            for field in chance.sample(sorted(made), chance.randint(0, 4)):
                made[field] = chance.choice((*ATOMS, [chance.choice(ATOMS) for _ in range(chance.randint(0, 3))]))
            records[f"i{number}"] = chance.choice((made, made, made, *ATOMS))
        table, odd = parse(json.dumps(records).encode(), CALL)
        assert table.schema.equals(TABLE) and set(odd.counts) <= set(ODDITIES)
        for row in table.to_pylist():
            assert len(row["labels"]) == len(row["bboxes"]) and "call" in row["labels"]
            assert all(0 <= x <= 1 and 0 <= y <= 1 and w > 0 and h > 0 for x, y, w, h in row["bboxes"])
