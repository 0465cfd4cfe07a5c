"""Sealed Parquet files: columns, and the thread that reads them."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from handdata.rows.shards import read_table, write_table
from tests import ROOT

READ = """
import os, pathlib, sys
import pyarrow as pa
from handdata.rows.shards import read_table
before = len(os.listdir("/proc/self/task"))
table = read_table(pathlib.Path(sys.argv[1]))
print(table.num_rows, len(os.listdir("/proc/self/task")) - before)
"""


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    texts = [f"text {number}" for number in range(500)]
    path = tmp_path / "00000.parquet"
    write_table(pa.table({"first": range(500), "second": texts, "third": [[0.5]] * 500}), path, row_group_size=100)
    return path


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_a_sealed_file_is_read_without_another_thread(stored):
    """A thread of Arrow that still holds the file's bytes when Python ends would abort the process (exit code -6)."""
    answer = subprocess.run([sys.executable, "-c", READ, stored], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["500", "0"]


def test_columns_come_in_the_requested_order_and_a_missing_one_makes_the_file_absent(stored):
    table = read_table(stored, columns=["third", "first"])
    assert table is not None
    assert table.column_names == ["third", "first"]
    assert table.to_pylist()[7] == {"third": [0.5], "first": 7}
    assert read_table(stored, columns=["first", "fourth"]) is None
