"""Receipts survive a kill at any byte, and a receipt is valid only together with its image."""

import hashlib

import pyarrow.parquet as pq
import pytest

from handdata.rows.shards import SHARD_ROWS, shard_path
from handdata.sources.journal import Journal, Receipt, finished, write_shards

STORED = Receipt("a", "key", sha256=hashlib.sha256(b"jpg").hexdigest(), bytes=3, orig_width=60, orig_height=40)
FINAL = frozenset({"image-corrupt"})


def test_an_incomplete_last_line_is_overwritten(tmp_path):
    journal = Journal(tmp_path)
    journal.add(STORED)
    journal.close()
    with journal.path.open("a") as file:
        file.write('{"image_id": "b", "key": "' + "x" * 500)
    resumed = Journal(tmp_path)
    assert resumed.receipts == {"a": STORED}
    resumed.add(Receipt("c", "key", reason="image-corrupt"))
    resumed.close()
    assert list(Journal(tmp_path).receipts) == ["a", "c"]
    assert journal.path.read_text().count("\n") == 2


def test_of_two_receipts_of_an_image_the_later_counts(tmp_path):
    journal = Journal(tmp_path)
    journal.add(Receipt("a", "key", reason="not-fetched"))
    journal.add(STORED)
    journal.close()
    assert Journal(tmp_path).receipts == {"a": STORED}


@pytest.mark.parametrize(
    ("receipt", "content", "valid"),
    [
        (STORED, b"jpg", True),
        (STORED, b"jp", False),
        (STORED, b"jpe", False),
        (STORED, None, False),
        (None, b"jpg", False),
        (Receipt("a", "older key", bytes=3), b"jpg", False),
        (Receipt("a", "key", reason="image-corrupt"), None, True),
        (Receipt("a", "key", reason="not-fetched"), None, False),
    ],
)
def test_a_receipt_is_valid_with_its_key_and_its_whole_image_or_a_final_reason(tmp_path, receipt, content, valid):
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    assert finished(receipt, "key", tmp_path / "a.jpg", FINAL) is valid


def test_only_changed_shards_are_written_and_those_of_a_longer_manifest_are_removed(tmp_path):
    ids = [str(number) for number in range(SHARD_ROWS + 1)]
    receipts = {name: Receipt(name, "key", bytes=1) for name in ids}
    assert not write_shards(tmp_path, ids, receipts)
    first, second = (shard_path(tmp_path, "fetch", shard) for shard in (0, 1))
    before = first.stat().st_ino
    receipts[ids[-1]] = Receipt(ids[-1], "key", reason="image-corrupt")
    assert write_shards(tmp_path, ids, receipts) == {"image-corrupt": 1}
    assert first.stat().st_ino == before and pq.read_table(second)["reason"].to_pylist() == ["image-corrupt"]
    write_shards(tmp_path, ids[:-1], receipts)
    assert first.is_file() and not second.exists()
