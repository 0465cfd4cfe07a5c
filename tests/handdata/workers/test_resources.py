"""Shares of machines and clusters, and the GPUs that workers see, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handdata import machine
from handdata.errors import UserError
from handdata.recipe import ResourceOptions, StageResources
from handdata.stages import STAGES
from handdata.workers.resources import Demand, Share, cluster_share, gpus_of_worker, local_share
from tests import ROOT
from tests.builds import make_build

PLAIN, MODEL = Demand("facts"), Demand("caption", threads=True, gpu=True)
LLAMA = Demand("rewrite", threads=True)


def test_every_stage_that_works_on_shards_has_a_table_of_resources():
    names = {stage.name for stage in STAGES if isinstance(stage.load(), type)}
    assert names == set(ResourceOptions.__dataclass_fields__)


def test_workers_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("handdata.workers.resources.all_cores", lambda: 16)
    assert local_share(LLAMA, StageResources(), 3, []) == Share(3, 5)
    assert local_share(LLAMA, StageResources(), 40, []).cpus == 1
    assert local_share(LLAMA, StageResources(cpus=4, memory=2.5), 3, []) == Share(3, 4, memory=2.5e9)


def test_workers_of_a_machine_take_its_gpus_in_turn():
    taken = lambda gpus, *names: [gpus_of_worker(Share(gpus=gpus), number, names) for number in range(4)]  # noqa: E731
    assert taken(1, "0", "1") == [("0",), ("1",), ("0",), ("1",)]
    assert taken(2, "0", "1", "2") == [("0", "1"), ("2", "0"), ("1", "2"), ("0", "1")]
    assert taken(0.5, "MIG-a", "MIG-b") == [("MIG-a",), ("MIG-b",), ("MIG-a",), ("MIG-b",)]
    assert local_share(MODEL, StageResources(), 2, ["0", "1"]).gpus == 1
    with pytest.raises(UserError, match=r"\[resources\.caption\] gpus = 3, but this machine has 2"):
        local_share(MODEL, StageResources(gpus=3), 2, ["0", "1"])


@pytest.mark.parametrize("share", [local_share, cluster_share])
def test_a_model_on_a_gpu_needs_one(share):
    with pytest.raises(UserError, match=r"\[resources\.caption\] gpus = 0, but the stage's model runs on a GPU"):
        share(MODEL, StageResources(gpus=0), 1, [])


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [
        ([8, 8], 1, 8),
        ([8, 8], 2, 8),
        ([8, 8], 3, 4),  # 5 would leave room for two workers only
        ([8, 8], 16, 1),
        ([8, 8], 99, 1),
        ([0, 12], 2, 6),
        ([2.5, 2], 2, 2),
    ],
)
def test_workers_of_a_cluster_get_as_many_cores_as_let_all_run_at_once(nodes, workers, cpus):
    cluster = [{"CPU": count} for count in nodes]
    assert cluster_share(LLAMA, StageResources(), workers, cluster).cpus == cpus
    assert cluster_share(PLAIN, StageResources(), workers, cluster).cpus == 1


def test_workers_with_gpus_share_the_cores_of_the_machines_that_have_them():
    cluster = [{"CPU": 64}, {"CPU": 16, "GPU": 2}, {"CPU": 8, "GPU": 2}]
    assert cluster_share(MODEL, StageResources(), 4, cluster) == Share(4, 4, 1.0)
    assert cluster_share(MODEL, StageResources(gpus=0.5), 8, cluster) == Share(8, 2, 0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (StageResources(), "1 CPU, 1 GPU for"),
        (StageResources(cpus=32, gpus=0.25), "32 CPU, 0.25 GPU for"),
        (StageResources(memory=500), "1 CPU, 1 GPU, 500 GB of memory for"),
    ],
)
def test_a_worker_that_fits_no_machine_of_the_cluster_is_refused(options, words):
    cluster = [{"CPU": 64.0, "memory": 1e11}, {"CPU": 16.0, "memory": 1e11}]
    with pytest.raises(UserError, match=rf"no machine of the Ray cluster has {words} a worker of 'caption'"):
        cluster_share(MODEL, options, 2, cluster)


@pytest.mark.parametrize(("visible", "names"), [("", []), ("-1", []), ("3", ["3"]), ("1, GPU-ab", ["1", "GPU-ab"])])
def test_the_gpus_of_a_process_are_those_that_it_may_see(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == names


def test_cores_of_a_worker_are_its_share(monkeypatch):
    monkeypatch.setattr(machine, "_share", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    everything = machine.cores()
    with machine.limited_cores(3):
        assert machine.cores() == 3
    with machine.limited_cores(0):
        assert machine.cores() == everything == machine.all_cores()
    machine.take_share(2)
    assert machine.cores() == 2 and os.environ["OMP_NUM_THREADS"] == "7", "the user's own number counts"


# A torch with two GPUs, which records the environment at its import, and a stage that writes it as the caption.
TORCH = """
import json, os
from pathlib import Path
ENVIRONMENT = json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), os.getpid()])
class cuda:
    @staticmethod
    def is_available():
        number = os.environ["CUDA_VISIBLE_DEVICES"]
        mixed = Path(__file__).with_name("mixed").exists()  # a cluster of which one machine has no GPU
        Path(__file__).with_name(f"{number}-{mixed}").touch()
        return not mixed or number == "0"
    device_count = staticmethod(lambda: 2)
"""
SEEING = """
import json, shutil, sys, time
from dataclasses import replace
from pathlib import Path
import pyarrow.parquet as pq
from handdata.errors import UserError
from handdata.stages import Execution, stage_named
from handdata.stages.caption import Captions

class Seeing(Captions):
    def __init__(self, options):
        import torch
        self.environment, self.folder = torch.ENVIRONMENT, Path(torch.__file__).parent
    def __call__(self, columns):
        deadline = time.monotonic() + 120
        mixed = (self.folder / "mixed").exists()
        while not all((self.folder / f"{n}-{mixed}").exists() for n in "01") and time.monotonic() < deadline:
            time.sleep(0.05)  # until the other worker has its first shard too
        rows = len(columns["image"])
        return {"caption": [self.environment] * rows, "reason": [None] * rows}
    def close(self):
        pass

def captions(build):
    return pq.read_table(Path(build) / "captions")["caption"].to_pylist()

def run(build, engine):
    from handdata.builds import engine as engines
    from handdata.recipe import CaptionOptions
    stage = replace(stage_named("caption"), implementation="seeing:Seeing")
    options = CaptionOptions("mini-blip", device="cuda", dtype="bfloat16")
    engines.run(stage, options, Path(build), Execution(engine, 2, progress=False))

if __name__ == "__main__":
    from seeing import run
    if sys.argv[2] == "ray":
        import ray
        ray.init(num_cpus=4, num_gpus=2, log_to_driver=False, include_dashboard=False)
    run(sys.argv[1], sys.argv[2])
    Path("modules/torch/mixed").touch()
    Path("captions.txt").write_text(json.dumps(captions(sys.argv[1])))
    shutil.rmtree(Path(sys.argv[1]) / "captions")
    try:
        run(sys.argv[1], sys.argv[2])
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_two_workers_see_one_gpu_each_and_a_worker_without_one_is_refused(tmp_path, engine):
    """No card is needed: Ray's GPUs are declared, torch is a stand-in that is imported first by the worker."""
    folder, build = tmp_path / "modules", make_build(tmp_path / "build", 8 * 256, size=8)
    (folder / "torch").mkdir(parents=True)
    (folder / "torch/__init__.py").write_text(TORCH)
    (folder / "seeing.py").write_text(SEEING)
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS",)}
    environment |= {"PYTHONPATH": f"{folder}:{ROOT}"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, folder / "seeing.py", build, engine]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if "(raylet)" not in line and line]  # Ray's own, of the workers
    assert len(lines) == 1 and "computes 'caption' on a GPU, and" in lines[0], done.stdout
    captions = json.loads((tmp_path / "captions.txt").read_text())
    seen = {(devices, threads): pid for devices, threads, pid in map(json.loads, captions)}
    cores = {"local": max(1, machine.all_cores() // 2), "ray": 2}[engine]
    assert set(seen) == {("0", str(cores)), ("1", str(cores))}
    assert len(set(seen.values())) == 2


def test_a_worker_without_a_gpu_is_refused_by_a_build_on_gpus(tmp_path, monkeypatch):
    from handdata.builds.build import Build

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    caption = {"model": "mini-blip", "device": "cuda"}
    build = Build.start("mini", make_build(tmp_path, 2), caption=caption)
    with pytest.raises(UserError, match=r"computes 'caption' on a GPU, and \S+ has none .*--caption\.device cpu"):
        build.run(only="caption", progress=False)
    assert not list(Path(tmp_path / "captions").glob("0*"))
