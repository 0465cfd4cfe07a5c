"""Files that may be damaged: a derived one counts as absent, a file of the user gets one sentence."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handdata.errors import UserError
from handdata.files import write_jsonl
from handdata.readers import read_json, read_jsonl, read_table, read_text, require_json

DAMAGED = {
    "empty": b"",
    "half": b'{"a": "\xc3',
    "latin-1": b'{"a": "\xfc"}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "another type": b"[]",
    "too deep": b"[" * 100_000,
}


def test_missing_json_is_none_and_missing_lines_are_empty(tmp_path):
    assert read_json(tmp_path / "a.json") is None
    assert read_jsonl(tmp_path / "a.jsonl") == []
    write_jsonl(tmp_path / "a.jsonl", iter([{"a": 1}, {"b": 2}]))
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_derived_json_counts_as_absent_and_the_users_gets_a_sentence(tmp_path, data):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    assert read_json(path) is None
    assert read_jsonl(path) == []
    with pytest.raises(UserError, match=f"^--metrics {path} .*: (correct or replace it|save it as UTF-8)$"):
        require_json(path, "--metrics")


def test_a_text_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("ü\n".encode("utf-8-sig"))
    assert read_text(path) == "ü\n"
    path.write_bytes("ü\n".encode("utf-16"))
    with pytest.raises(UserError, match="is not UTF-8 text: save it as UTF-8"):
        read_text(path, "--prompts")


def test_text_that_is_missing_or_a_folder_gets_a_sentence(tmp_path):
    with pytest.raises(UserError, match=f"^--prompts {tmp_path / 'a.txt'} does not exist"):
        read_text(tmp_path / "a.txt", "--prompts")
    with pytest.raises(UserError, match="is a folder"):
        read_text(tmp_path, "--prompts")


def test_a_table_with_flipped_bytes_or_other_columns_counts_as_absent(tmp_path):
    path = tmp_path / "00000.parquet"
    table = pa.table({"a": list(range(1000))})
    pq.write_table(table, path, write_page_checksum=True)
    assert read_table(path, table.schema).equals(table)
    assert read_table(path, columns=["b"]) is None
    assert read_table(path, pa.schema({"a": pa.string()})) is None
    whole = path.read_bytes()
    for position in range(4, 1000, 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        read = read_table(path, table.schema)
        assert read is None or read.equals(table)
    path.write_bytes(whole[: len(whole) // 2])
    assert read_table(path) is None
    assert read_table(tmp_path / "missing.parquet") is None
