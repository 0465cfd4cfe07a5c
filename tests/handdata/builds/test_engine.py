"""Engines, shards and resume, with the stage `facts` as the real stage that they run."""

import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from handdata import shipped
from handdata.builds import engine
from handdata.errors import Unfinished, UserError
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import STAGE_COLUMNS
from handdata.rows.shards import SOFTWARE, image_path, shard_path, write_table
from handdata.stages import Execution, stage_named
from handdata.stages.facts import ImageFacts
from handdata.workers import software
from handdata.workers.shard_worker import ShardWorker, read_inputs
from tests import ROOT
from tests.builds import draw_jpeg, make_build

FACTS, QUIET = stage_named("facts"), Execution(progress=False)
ENGINES = [("local", 1), ("local", 2), ("ray", 2)]
RUN = """
import sys, pathlib
from handdata.builds import engine
from handdata.stages import Execution, stage_named
if __name__ == "__main__":
    report = engine.run(
        stage_named("facts"), None, pathlib.Path(sys.argv[1]), Execution(sys.argv[2], int(sys.argv[3]), progress=False)
    )
    print(report.rows, report.made_shards, report.kept_shards, dict(report.failed))
"""


def start(build: Path, name: str = "local", workers: int = 1) -> subprocess.Popen:
    script = build / "run_facts.py"  # a file, since spawned workers import the main module again
    script.write_text(RUN)
    command = [sys.executable, script, build, name, str(workers)]
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True)


def shard_bytes(build: Path) -> dict[str, bytes]:
    """Return every file of the stage by name, leftovers too."""
    return {path.name: path.read_bytes() for path in sorted((build / "facts").iterdir())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    build = make_build(tmp_path_factory.mktemp("undisturbed") / "build", 600, corrupt=(300,))
    engine.run(FACTS, None, build, QUIET)
    return shard_bytes(build)


@pytest.mark.parametrize(("name", "workers"), [*ENGINES[:2], pytest.param(*ENGINES[2], marks=pytest.mark.slow)])
def test_every_engine_survives_a_kill_and_ends_in_the_same_bytes(tmp_path, undisturbed, name, workers):
    build = make_build(tmp_path, 600, corrupt=(300,))
    process = start(build, name, workers)
    deadline = time.monotonic() + 120
    while not list((build / "facts").glob("0*.parquet")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    finished = set(shard_bytes(build))
    assert finished, "the kill came before the first shard"
    output, _ = start(build, name, workers).communicate(timeout=120)
    assert output.split()[0] == "600" and "{'image-corrupt': 1}" in output
    assert shard_bytes(build) == undisturbed


def test_rows_hold_the_facts_of_their_files_and_a_failed_row_its_reason(tmp_path):
    build = make_build(tmp_path, 300, corrupt=(7,))
    missing = read_manifest(build)["image_id"][9].as_py()
    image_path(build, "ok", missing).unlink()
    report = engine.run(FACTS, None, build, QUIET)
    assert report.failed == {"image-corrupt": 1, "image-missing": 1}
    rows = pq.read_table(build / "facts").sort_by("image_id").to_pylist()
    for index, row in enumerate(rows):
        if index in (7, 9):
            assert row["reason"] and row["width"] is None
            continue
        path = image_path(build, ("call", "ok")[index % 2], row["image_id"])
        data = path.read_bytes()
        assert (row["width"], row["height"]) == Image.open(path).size
        assert row["digest"] == hashlib.sha256(data).hexdigest()
        assert row["bytes"] == len(data) and row["reason"] is None and len(row["phash"]) == 16


def test_finished_shards_are_kept_and_a_changed_image_remakes_its_shard_only(tmp_path):
    build = make_build(tmp_path, 600)
    assert engine.run(FACTS, None, build, QUIET).made_shards == 3
    assert engine.run(FACTS, None, build, QUIET).kept_shards == 3
    changed = read_manifest(build)["image_id"][400].as_py()
    image_path(build, "call", changed).write_bytes(draw_jpeg(9999))
    report = engine.run(FACTS, None, build, QUIET)
    assert (report.made_shards, report.kept_shards) == (1, 2)


def test_a_failure_that_may_pass_is_tried_again_and_a_final_one_is_not(tmp_path):
    build = make_build(tmp_path, 300, corrupt=(7,))
    late = image_path(build, "call", read_manifest(build)["image_id"][260].as_py())
    data = late.read_bytes()
    late.unlink()
    engine.run(FACTS, None, build, QUIET)
    again = engine.run(FACTS, None, build, QUIET)
    assert again.made_shards == 1, "the missing image is looked for again, the corrupt one is not"
    late.write_bytes(data)
    assert engine.run(FACTS, None, build, QUIET).failed == {"image-corrupt": 1}


def test_a_new_version_of_the_stage_makes_everything_again(tmp_path, monkeypatch):
    build = make_build(tmp_path, 300)
    engine.run(FACTS, None, build, QUIET)
    monkeypatch.setattr(ImageFacts, "version", 2)
    assert engine.run(FACTS, None, build, QUIET).made_shards == 2


def test_a_row_that_failed_earlier_is_skipped_with_that_reason(tmp_path):
    build = make_build(tmp_path, 5)
    ids = read_manifest(build)["image_id"].to_pylist()
    reasons = [None, "image-corrupt", None, None, None]
    columns = {name: [None] * 5 for name in STAGE_COLUMNS["fetch"].names}
    schema = pa.schema([("image_id", pa.string()), *STAGE_COLUMNS["fetch"], ("reason", pa.string())])
    table = pa.table({"image_id": ids, **columns, "reason": reasons}, schema=schema)
    write_table(table, shard_path(build, "fetch", 0))
    report = engine.run(FACTS, None, build, QUIET)
    assert report.failed == {"failed-earlier": 1}
    assert pq.read_table(build / "facts")["reason"].to_pylist()[1] == "failed-earlier"


def test_a_stage_without_its_input_names_the_stage_to_run_first(tmp_path):
    build = make_build(tmp_path, 5)
    with pytest.raises(UserError, match="'check' needs the output of 'caption'"):
        read_inputs(build, ("caption",), 0, stage_named("check"))


@pytest.mark.parametrize(("name", "workers"), ENGINES)
def test_a_clear_sentence_from_a_stage_reaches_the_user_under_every_engine(tmp_path, name, workers):
    build = make_build(tmp_path, 300)
    stage = replace(FACTS, implementation=f"{__name__}:NeedsModel")
    with pytest.raises(UserError, match="the model is missing"):
        engine.run(stage, None, build, Execution(name, workers, progress=False))


class NeedsModel(ImageFacts):
    """A stage whose model is missing."""

    def __init__(self, options: None = None) -> None:
        raise UserError("the model is missing: run `handdata assets`")


class FakeRay(types.ModuleType):
    """Ray's module as far as `_connect` uses it."""

    def __init__(self, failure: str = "") -> None:
        super().__init__("ray")
        self.data, self.failure, self.calls = types.ModuleType("ray.data"), failure, []

    def is_initialized(self):
        return False

    def init(self, address, **options):
        self.calls.append(address)
        if self.failure:
            raise ConnectionError(self.failure)

    def cluster_resources(self):
        return {"CPU": 8.0, "GPU": 2.0}


def test_an_address_is_that_of_a_running_cluster_which_is_named_if_it_does_not_answer(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    monkeypatch.setattr(engine, "guarded", contextlib.nullcontext, raising=False)
    assert engine.has_gpu(Execution("ray", address="auto")) is True and engine.has_gpu(Execution("ray")) is True
    assert ray.calls == ["auto", "local"] and engine.has_gpu(Execution("local")) is None
    ray.failure = "no cluster"
    with pytest.raises(
        Unfinished, match=r"the Ray cluster 10\.0\.0\.1:6379 cannot be used \(no cluster\): check --addr"
    ):
        engine.has_gpu(Execution("ray", address="10.0.0.1:6379"))


def test_a_ray_worker_that_does_not_share_the_folder_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "take_share", lambda cpus: None)
    monkeypatch.setattr(engine, "watch_parent", lambda: None)
    build = make_build(tmp_path, 2)
    worker = ShardWorker(FACTS, None, build)
    with engine._probe(worker.store) as (name, content):
        shares = engine._RayWorker(worker, 1, (name, content))
        other = [engine._RayWorker(worker, 1, probe) for probe in ((name, "old"), ("nowhere", content))]
    assert not list(build.glob(".probe*"))
    for adapter in other:
        row = {"outcome": adapter({"shard": [0]})["outcome"][0]}
        with pytest.raises(UserError, match=r"cannot read .* a folder that all machines of the cluster mount .*--part"):
            engine._unpacked(row)
    assert engine._unpacked({"outcome": shares({"shard": [0]})["outcome"][0]})["rows"] == 2


def test_a_resume_with_other_versions_keeps_the_shards_and_prints_so(tmp_path, monkeypatch, capsys):
    build = make_build(tmp_path, 600)
    shown = Execution()
    engine.run(FACTS, None, build, shown)
    assert "finished shards" not in capsys.readouterr().err
    shard_path(build, "facts", 2).unlink()
    now = shipped.versions
    monkeypatch.setattr(software, "versions", lambda *names: {**now(*names), "numpy": "9.9"})
    assert engine.run(FACTS, None, build, shown).kept_shards == 2
    expected = f"facts: 2 finished shards are kept, made with numpy {now('numpy')['numpy']} instead of 9.9\n"
    assert expected in capsys.readouterr().err
    made_by = json.loads(pq.read_metadata(shard_path(build, "facts", 2)).metadata[SOFTWARE])
    assert made_by == {**now("pillow", "numpy"), "numpy": "9.9"}


def test_a_worker_with_other_versions_than_its_driver_is_refused(tmp_path, monkeypatch):
    build = make_build(tmp_path, 300)
    worker = ShardWorker(FACTS, None, build)
    worker.software["pillow"] = "1.0"
    with pytest.raises(
        UserError, match=r"^the worker on \S+ has pillow \S+ instead of 1\.0 of the process that started"
    ):
        worker(0)
    assert not (build / "facts").exists()


@pytest.mark.slow
def test_ten_kills_at_random_moments_of_2000_rows_end_in_the_same_bytes(tmp_path):
    reference = make_build(tmp_path / "reference", 2000, corrupt=(1234,))
    begin = time.monotonic()
    start(reference).communicate(timeout=300)
    duration = time.monotonic() - begin
    build = make_build(tmp_path / "killed", 2000, corrupt=(1234,))
    chance, shards = random.Random(0), []
    for _ in range(10):
        shutil.rmtree(build / "facts", ignore_errors=True)
        process = start(build)
        time.sleep(chance.uniform(0.1, 0.95) * duration)
        process.kill()
        process.wait()
        shards.append(len(list((build / "facts").glob("0*.parquet"))))
        assert start(build).wait(timeout=300) == 0
        assert shard_bytes(build) == shard_bytes(reference)
    print(f"finished shards at the kills: {shards} of 8")
    assert any(0 < finished < 8 for finished in shards), "no kill came in the middle"
