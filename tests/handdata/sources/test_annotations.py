"""HaGRID's annotations, every version and trap: rows that are used, corrected, or left out and reported."""

import hashlib
import json

import pytest

from handdata.errors import UserError
from handdata.sources import annotations
from handdata.sources.annotations import AnnotationFile, files, parse
from handdata.sources.archive import Entry
from tests.hagrid import record


def entry(name: str) -> Entry:
    return Entry(name, method=0, crc32=0, compressed_size=1, size=1, offset=0)


CALL = AnnotationFile(entry("annotations/train/call.json"), "call", "train")
HEART = AnnotationFile(entry("annotations/train/hand_heart.json"), "hand_heart", "train")


def read(file: AnnotationFile = CALL, **records: object):
    table, odd = parse(json.dumps(records).encode(), file)
    return table.to_pylist(), dict(odd.counts)


def test_a_record_becomes_a_row_without_meta_or_landmarks():
    rows, odd = read(a=record("call", "user"))
    assert rows == [
        {
            "image_id": "a",
            "gesture": "call",
            "hagrid_split": "train",
            "subject": annotations.subject_of(record("call", "user")["user_id"]),
            "bboxes": [[0.25, 0.25, 0.5, 0.5]],
            "labels": ["call"],
            "gesture_area": 0.25,
            "other_hands": 0,
        }
    ]
    assert odd == {}


def test_the_subject_is_16_hex_digits_whatever_the_length_of_user_id():
    for user in ("ab" * 16, "cd" * 32, "short"):
        assert annotations.subject_of(user) == hashlib.sha256(user.encode()).hexdigest()[:16]


@pytest.mark.parametrize("missing", ["hand_landmarks", "landmarks", "united_bbox", "united_label", "meta"])
def test_fields_that_only_some_versions_have_may_be_missing(missing):
    whole = record("call", "user", landmarks=[[]], leading_hand="right", leading_conf=1.0)
    whole.pop(missing)
    rows, odd = read(a=whole)
    assert len(rows) == 1 and odd == {}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("no-gesture", {"labels": ["no_gesture"]}),
        ("no-gesture", {"labels": ["like"]}),
        ("no-gesture", {"labels": [], "bboxes": []}),
        ("no-subject", {"user_id": None}),
        ("no-subject", {"user_id": ""}),
        ("uneven-boxes", {"labels": ["call", "call"]}),
        ("uneven-boxes", {"labels": None}),
        ("not-a-record", {"bboxes": None}),
    ],
)
def test_a_record_that_cannot_be_used_is_left_out_and_counted(kind, changes):
    rows, odd = read(a=record("call", "user", **changes), b=record("call", "user"))
    assert [row["image_id"] for row in rows] == ["b"]
    assert odd == {kind: 1}


def test_a_box_beyond_the_image_is_clipped_and_an_empty_one_left_out():
    boxes = [[-0.1, 0.5, 0.3, 0.6], [0.2, 0.2, 0.0, 0.1], [0.5, 0.5, float("nan"), 0.1], [1.2, 0, 0.1, 0.1], [0.5, 0.5]]
    rows, odd = read(a=record("call", "user", bboxes=boxes, labels=["call", "x", "x", "x", "x"]))
    assert rows[0]["bboxes"] == [pytest.approx([0.0, 0.5, 0.2, 0.5])]
    assert rows[0]["labels"] == ["call"]
    assert odd == {"box-clipped": 1, "box-empty": 4}


def test_rounding_at_the_border_is_not_reported():
    rows, odd = read(a=record("call", "user", bboxes=[[0.5, 0.5, 0.5000000001, 0.5]]))
    assert len(rows) == 1 and odd == {}


def test_a_record_whose_only_gesture_box_is_empty_carries_no_gesture():
    rows, odd = read(a=record("call", "user", bboxes=[[0.1, 0.1, 0, 0]]))
    assert rows == [] and odd == {"box-empty": 1, "no-gesture": 1}


def test_hands_beyond_those_of_the_gesture_are_counted():
    two = {"bboxes": [[0, 0, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]]}
    rows, _ = read(
        one=record("call", "u"),
        idle=record("call", "u", labels=["call", "no_gesture"], **two),
        twice=record("call", "u", labels=["call", "call"], **two),
    )
    assert [row["other_hands"] for row in rows] == [0, 1, 1]
    assert rows[2]["gesture_area"] == pytest.approx(0.04), "the larger of both"
    rows, _ = read(HEART, both=record("hand_heart", "u", labels=["hand_heart"] * 2, **two))
    assert rows[0]["other_hands"] == 0


@pytest.mark.parametrize(
    ("box", "label"), [([[0.1, 0.1, 0.6, 0.3]], ["hand_heart"]), ([0.1, 0.1, 0.6, 0.3], "hand_heart")]
)
def test_a_united_box_is_added_where_it_alone_carries_the_gesture(box, label):
    hands = {"bboxes": [[0.1, 0.1, 0.2, 0.3], [0.5, 0.1, 0.2, 0.3]], "labels": ["no_gesture", "no_gesture"]}
    rows, odd = read(HEART, a=record("hand_heart", "u", **hands, united_bbox=box, united_label=label))
    assert rows[0]["labels"] == ["no_gesture", "no_gesture", "hand_heart"]
    assert rows[0]["bboxes"][2] == pytest.approx([0.1, 0.1, 0.6, 0.3])
    assert odd == {"united-only": 1}


@pytest.mark.parametrize("nothing", [None, [None], []])
def test_null_a_list_of_null_and_an_empty_list_all_mean_no_united_box(nothing):
    rows, odd = read(HEART, a=record("hand_heart", "u", united_bbox=nothing, united_label=nothing))
    assert len(rows) == 1 and odd == {}
    rows, odd = read(
        HEART, a=record("hand_heart", "u", labels=["no_gesture"], united_bbox=nothing, united_label=nothing)
    )
    assert rows == [] and odd == {"no-gesture": 1}


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "x" * 200, ".hidden"])
def test_an_image_id_that_could_be_a_path_is_left_out(name):
    rows, odd = read(**{name: record("call", "user")})
    assert rows == [] and odd == {"bad-image-id": 1}


def test_a_file_that_is_not_json_or_not_a_table_is_a_clear_error():
    with pytest.raises(UserError, match=r"call.json is not valid JSON"):
        parse(b"{", CALL)
    with pytest.raises(UserError, match=r"call.json is not a table"):
        parse(b"[]", CALL)


def test_the_files_of_all_versions_are_found_and_junk_is_not():
    names = [
        "annotations/train/call.json",
        "annotations/val/call.json",
        "annotations/test/call.json",
        "annotations/train/.ipynb_checkpoints/call.json",
        "annotations/train/.ipynb_checkpoints/call-checkpoint.json",
        "__MACOSX/annotations/train/call.json",
        "annotations/train/hands_heart2.json",
        "hagrid/ann_train_val/two up.json",
        "hagrid/ann_test/two_up.json",
        "annotations/train/readme.txt",
        "call.json",
    ]
    chosen = files(map(entry, names), ("call", "hand_heart2", "two_up"), "a.zip")
    assert {(file.gesture, file.hagrid_split, file.entry.name) for file in chosen} == {
        ("call", "train", names[0]),
        ("call", "val", names[1]),
        ("call", "test", names[2]),
        ("hand_heart2", "train", names[6]),
        ("two_up", "train", names[7]),
        ("two_up", "test", names[8]),
    }


def test_a_gesture_without_annotations_is_named_with_those_that_have_some():
    with pytest.raises(UserError, match=r"a.zip has no annotations of 'ok'; it has those of: call"):
        files([entry("annotations/train/call.json")], ("ok",), "a.zip")


def test_the_report_has_counts_and_examples():
    _, odd = parse(json.dumps({f"i{n}": record("call", "u", labels=["x"]) for n in range(5)}).encode(), CALL)
    (line,) = odd.lines()
    assert line.split()[0] == "5" and "call/i0, call/i1, call/i2" in line and "i3" not in line
