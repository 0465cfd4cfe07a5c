"""A published dataset loads alike with datasets (whole and streamed), pyarrow and DuckDB, from folder and Hub."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handdata.builds.build import Build
from handdata.stages import assemble
from tests.finished import QUIET, finished_build
from tests.hub_server import HubServer

COUNTS = {"train": 5, "validation": 1, "test": 3}

# Runs in a process of its own: the libraries read the Hub's address when they are imported.
LOAD = """
import hashlib, io, json, os, sys
import datasets

def row_digest(row):
    image = row.pop("image")
    data = image["bytes"]
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    return hashlib.sha256((json.dumps(row, sort_keys=True) + hashlib.sha256(data).hexdigest()).encode()).hexdigest()

place, configurations = sys.argv[1], json.loads(sys.argv[2])
digests = {}
for name in configurations:
    for streaming in (False, True):
        splits = datasets.load_dataset(place, name, streaming=streaming) if name else datasets.load_dataset(place, streaming=streaming)
        for split, rows in splits.items():
            decoded = next(iter(rows))
            assert decoded["image"].size == (decoded["width"], decoded["height"]), decoded["image"]
            assert rows.features["gesture"].int2str(decoded["gesture"]) in ("call", "ok")
            raw = rows.cast_column("image", datasets.Image(decode=False))
            digests[f"{name} {split} {streaming}"] = [row_digest(row) for row in raw]
print(json.dumps(digests), flush=True)
os._exit(0)  # a reader that stopped after its first row has threads that sometimes abort the interpreter at exit
"""  # noqa: E501


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    folder = finished_build(tmp_path_factory.mktemp("loading") / "build", COUNTS)
    assemble.run(folder, Build.open(folder).recipe, QUIET)
    return folder


def load(place: str, configurations: list[str | None], **environment: str) -> dict[str, list[str]]:
    command = [sys.executable, "-c", LOAD, place, json.dumps(configurations)]
    answer = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return json.loads(answer.stdout)


def digests(folder: Path, gesture: str, split: str, engine: str) -> list[str]:
    """Return the same digests as LOAD's, read by pyarrow or DuckDB from the files alone."""
    digests = []
    for path in sorted(folder.glob(f"data/{gesture}/{split}-*.parquet")):
        for row in _READERS[engine](path):
            data = row.pop("image")["bytes"]
            words = json.dumps(row, sort_keys=True) + hashlib.sha256(data).hexdigest()
            digests.append(hashlib.sha256(words.encode()).hexdigest())
    return digests


def _by_pyarrow(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def _by_duckdb(path: Path) -> list[dict]:
    import duckdb

    relation = duckdb.connect().execute("select * from read_parquet(?)", [str(path)])
    names = [column[0] for column in relation.description]
    return [dict(zip(names, row, strict=True)) for row in relation.fetchall()]


_READERS = {"pyarrow": _by_pyarrow, "duckdb": _by_duckdb}


def expected(folder: Path, configurations: list[str | None]) -> dict[str, list[str]]:
    """Return the digests that `load` should return, read by pyarrow; those of DuckDB must be equal."""
    by_split = {}
    for name in configurations:
        for split in COUNTS:
            gestures = [name] if name in ("call", "ok") else ["call", "ok"]
            rows = [digest for gesture in gestures for digest in digests(folder, gesture, split, "pyarrow")]
            assert rows == [digest for gesture in gestures for digest in digests(folder, gesture, split, "duckdb")]
            by_split |= {f"{name} {split} {streaming}": rows for streaming in (False, True)}
    return by_split


def test_a_folder_loads_the_same_way_everywhere(build, tmp_path):
    Build.open(build).publish(tmp_path / "hands")
    names = ["call", "ok", None]
    loaded = load(str(tmp_path / "hands"), names, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home"))
    assert loaded == expected(tmp_path / "hands", names)


def test_the_hub_loads_the_same_way_everywhere(build, tmp_path, monkeypatch):
    with HubServer() as server:
        with monkeypatch.context() as patch:
            server.adopt(patch, tmp_path / "here")
            Build.open(build).publish("hf:tester/hands")
        names = ["call", "all"]
        loaded = load("tester/hands", names, **server.environment(tmp_path / "there", token=None))
    assert loaded == expected(build / "dataset", names)


@pytest.mark.slow
def test_a_private_dataset_loads_for_its_owner_only(build, tmp_path, monkeypatch):
    with HubServer() as server:
        with monkeypatch.context() as patch:
            server.adopt(patch, tmp_path / "here")
            Build.open(build).publish("hf:tester/hands", private=True)
        assert load("tester/hands", ["call"], **server.environment(tmp_path / "there"))
        with pytest.raises(AssertionError, match="doesn't exist on the Hub or cannot be accessed"):
            load("tester/hands", ["call"], **server.environment(tmp_path / "elsewhere", token=None))
