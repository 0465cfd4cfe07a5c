"""The choice of published rows: exact counts, spares in order, disjoint splits."""

import time

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from handdata.rows.publication import choose, nearest

COUNTS = {"train": 3, "validation": 1, "test": 2}


def rows(**changes: dict[int, object]) -> pa.Table:
    """Two gestures, two spares per split; `changes`: column to {row: value}."""
    table: list[dict] = []
    for gesture in ("call", "ok"):
        for split, count in COUNTS.items():
            for rank in range(count + 2):
                number = len(table)
                row = {"gesture": gesture, "split": split, "rank": rank, "spare": rank >= count, "why": None}
                hashed = f"{np.random.default_rng(number).integers(2**63):016x}"
                table.append({**row, "subject": f"s{number}", "phash": hashed, "image_id": f"{97 * number % 100:03d}"})
    for column, values in changes.items():
        for number, value in values.items():
            table[number][column] = value
    return pa.Table.from_pylist(table).set_column(4, "why", pa.array([row["why"] for row in table], pa.string()))


def test_the_requested_counts_come_from_the_best_ranks_sorted_by_id():
    table = rows()
    choice = choose(table, ("call", "ok"), COUNTS, 4)
    assert not choice.shortfalls
    for (gesture, split), numbers in choice.rows.items():
        part = table.take(numbers)
        assert set(part["gesture"].to_pylist()) == {gesture} and set(part["split"].to_pylist()) == {split}
        assert sorted(part["rank"].to_pylist()) == list(range(COUNTS[split]))
        assert part["image_id"].to_pylist() == sorted(part["image_id"].to_pylist())


def test_a_spare_of_the_same_gesture_and_split_replaces_a_failed_row():
    choice = choose(rows(why={1: "image-corrupt"}), ("call", "ok"), COUNTS, 4)
    assert set(choice.rows["call", "train"]) == {0, 2, 3}, "row 3 is the first spare"
    assert choice.spares_used["call", "train"] == 1 and choice.left_out["call", "train"] == {"image-corrupt": 1}


def test_without_spares_left_the_shortfall_is_named():
    choice = choose(rows(why=dict.fromkeys(range(4), "rejected")), ("call", "ok"), COUNTS, 4)
    assert choice.shortfalls == [("call", "train", 3, 1)]


def test_a_person_of_the_test_split_is_not_in_train():
    table = rows(subject={0: "x", 10: "x"})  # rows 0 to 4 are call/train, 8 to 11 call/test: 10 is a spare there
    assert 0 in choose(table, ("call", "ok"), COUNTS, 4).rows["call", "train"], "a spare that is not used takes nothing"
    table = rows(subject={0: "x", 8: "x"})
    choice = choose(table, ("call", "ok"), COUNTS, 4)
    assert 0 not in choice.rows["call", "train"] and 8 in choice.rows["call", "test"]
    assert choice.left_out["call", "train"] == {"subject-in-other-split": 1}


def test_a_near_duplicate_across_splits_and_gestures_is_left_out_of_train():
    table = rows(phash={0: "00000000000000ff", 20: "00000000000000f0"})  # row 20 is ok/test
    choice = choose(table, ("call", "ok"), COUNTS, 4)
    assert choice.left_out["call", "train"] == {"duplicate-in-other-split": 1}
    assert 0 in choose(table, ("call", "ok"), COUNTS, 3).rows["call", "train"], "4 bits differ"


def test_near_duplicates_within_a_split_are_kept():
    table = rows(phash={0: "00000000000000ff", 1: "00000000000000ff"})
    assert {0, 1} <= set(choose(table, ("call", "ok"), COUNTS, 4).rows["call", "train"])


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_the_nearest_distance_is_that_of_counting_bits(hashes, others):
    distances = nearest(np.array(hashes, np.uint64), np.array(others, np.uint64))
    expected = [min(((own ^ other).bit_count() for other in others), default=65) for own in hashes]
    assert distances.tolist() == expected


def test_thirteen_thousand_rows_are_compared_within_seconds():
    hashes = np.random.default_rng(0).integers(0, 2**63, 13_200).astype(np.uint64)
    before = time.process_time()
    nearest(hashes[:6900], hashes[6900:])
    assert time.process_time() - before < 5
