"""The row schema and how a table is stored."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handdata.rows.schema import MANIFEST, STAGE_COLUMNS, features
from handdata.rows.shards import shard_count, write_table


def test_the_published_columns_are_the_contract_in_its_order():
    columns = list(features(["call", "ok"]))
    contract = (
        "image text caption gesture gesture_phrase image_id subject hagrid_split width height orig_width orig_height "
        "bboxes labels hand_landmarks handedness handedness_score gesture_hand landmarks_in_box rewrite checks "
        "source member crc32 sha256"
    )
    assert columns == contract.split()
    assert features(["call", "ok"])["gesture"].names == ["call", "ok"]


def test_no_two_stages_fill_the_same_column():
    names = [name for schema in STAGE_COLUMNS.values() for name in schema.names] + MANIFEST.names
    assert len(names) == len(set(names))


def test_shards_cover_all_rows_and_the_last_one_may_be_short():
    assert [shard_count(rows) for rows in (0, 1, 256, 257, 512)] == [0, 1, 1, 2, 2]


def test_a_table_is_whole_or_absent_and_leaves_nothing_behind(tmp_path, monkeypatch):
    table = pa.table({"a": list(range(1000))})
    write_table(table, tmp_path / "t.parquet")

    def fails(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fails)
    with pytest.raises(OSError, match="No space"):
        write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet") == table
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_table(pa.table({"a": ["x", None], "b": [[1.5], []]}), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
