"""SIGKILL at any moment: the same command again must end in the same weights, bit for bit."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.handtrain.tiny import write_dataset

# Import everything once, then fork a run for each line: `t 0.4 ...` is killed after 0.4 s, `w 17 ...` when it is
# about to change the 17th file or folder (-1: never), `c 17 ...` before the 17th change by the thread that writes
# checkpoints. Print the exit code and the number of changes.
RUN = """
import os, signal, sys, threading
import torch
torch.set_num_threads(1)
import handtrain.training.train, handtrain.cli.flags, diffusers, transformers, datasets
from handdata.cli import program
from handtrain import cli

WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
place, changes = sys.argv[1], 0

def child(kind, moment, argv):
    def watch(event, arguments):
        global changes
        if event not in WRITES or place not in str(arguments[0]):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if kind == "c" and not threading.current_thread().name.startswith("checkpoint"):
            return
        changes += 1
        if kind in "wc" and changes == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    if kind == "t":
        threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
    code = program.main("handtrain", cli.ABOUT, cli.COMMANDS, argv)
    print("CHANGES", changes, flush=True)
    os._exit(code)

for line in sys.stdin:
    kind, moment, *argv = line.split()
    pid = os.fork()
    if pid == 0:
        child(kind, float(moment), argv)
    _, status = os.waitpid(pid, 0)
    print("END", os.waitstatus_to_exitcode(status), flush=True)
"""


class Runner:
    """A process that has imported all modules and forks a training run for each line it is given."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
            cwd=ROOT,
        )  # fmt: skip

    def __call__(self, argv: list[str], kind: str = "w", moment: float = -1) -> tuple[int, int]:
        """Run once; return the exit code and, of a run that was not killed, how many changes it made on the disk."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{kind} {moment} {' '.join(argv)}\n")
        self.process.stdin.flush()
        changes = 0
        for line in self.process.stdout:
            if line.startswith("CHANGES"):
                changes = int(line.split()[1])
            if line.startswith("END"):
                return int(line.split()[1]), changes
        raise AssertionError(f"the runner ended with {self.process.wait()}")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    started = Runner(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "flags"),
    [
        (20, ["--preset", "paper", "--unet-epochs", "2", "--embedding-batch", "2", "--embedding-steps", "3"]),
        (5, "--preset plus-2025 --unet-epochs 2 --unet-batch 2 --fusion-epochs 1 --fusion-batch 2".split()),
        (5, "--preset plus --unet-samples 16 --unet-batch 2 --prior 0.5 --prior-images 2 --unet-lr 1e-3".split()),
        (5, ["--preset", "reference", "--unet-epochs", "2", "--embedding-steps", "2"]),
    ],
    ids=["paper", "plus-2025", "plus", "reference"],
)
def test_killed_and_resumed_runs_end_like_an_uninterrupted_one(
    base: Path, tmp_path: Path, runner: Runner, kills: int, flags: list[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    common = ["train", "--dataset", str(dataset), "--gesture", "call", "--base", str(base), "--device", "cpu", *flags]
    # A checkpoint after every step, so that kills land in the writing of them.
    common += ["--validate-every", "4", "--sample-every", "0", "--no-tensorboard", "--checkpoint-minutes", "0"]

    def command(name: str) -> list[str]:  # with a cache of its own, so that kills land in the encoding too
        return [*common, "--out", str(tmp_path / name), "--cache", str(tmp_path / f"{name}-cache")]

    runner(command("warm-up"))
    start = time.monotonic()
    code, changes = runner(command("uninterrupted"))
    seconds = time.monotonic() - start
    assert code == 0
    shuffler = random.Random(kills)
    # Every other kill by time, every other at a change of the disk, both spread over the whole run.
    moments = [("w", int((k + 0.5) / kills * changes)) if k % 2 else ("t", k / kills * seconds) for k in range(kills)]
    shuffler.shuffle(moments)
    done, places = 0, []
    while moments:
        kind, moment = moments.pop()
        name = f"killed-{done // 3}"  # three kills on each run
        code, _ = runner(command(name), kind, moment)
        assert code in (0, -signal.SIGKILL)
        if code:
            done += 1
            places.append(_place(tmp_path / name))
        else:  # it ended before the kill: little of the run was left after the earlier ones
            moments.append((kind, moment * 0.6 if kind == "t" else moment // 2 + 1))
            _remove(tmp_path, name)
    print({place: places.count(place) for place in sorted(set(places))})
    for run in sorted(tmp_path.glob("killed-?")):
        code, _ = runner(command(run.name))
        assert code == 0, run
        assert _result(run) == _result(tmp_path / "uninterrupted"), run
        assert _log(run) == _log(tmp_path / "uninterrupted"), run
        assert not list(run.rglob("*.partial"))
        assert not (run / "checkpoints").exists()


@pytest.mark.slow
def test_kills_in_the_thread_that_writes_a_checkpoint_change_nothing(
    base: Path, tmp_path: Path, runner: Runner
) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    common = ["train", "--dataset", str(dataset), "--gesture", "call", "--base", str(base), "--device", "cpu"]
    common += ["--unet-epochs", "3", "--embedding-batch", "5", "--embedding-steps", "1", "--cache", str(tmp_path / "c")]
    common += ["--validate-every", "0", "--sample-every", "0", "--no-tensorboard", "--checkpoint-minutes", "0"]

    def run(name: str, moment: int = -1) -> tuple[int, int]:
        return runner([*common, "--out", str(tmp_path / name)], "c", moment)

    code, changes = run("uninterrupted")
    assert code == 0
    of_two = 2 * changes // 14  # changes of the disk by two of the checkpoints, which all but the last step have
    moments = [1 + of_two * kill // 20 for kill in range(20)]
    random.Random(0).shuffle(moments)
    for kill, moment in enumerate(moments):  # four on each run
        assert run(f"killed-{kill // 4}", moment)[0] == -signal.SIGKILL
    for number in range(5):
        killed = tmp_path / f"killed-{number}"
        assert run(killed.name)[0] == 0
        assert _result(killed) == _result(tmp_path / "uninterrupted")
        assert _log(killed) == _log(tmp_path / "uninterrupted")
        assert not (killed / "checkpoints").exists()


def _remove(folder: Path, name: str) -> None:
    import shutil

    shutil.rmtree(folder / name)
    shutil.rmtree(folder / f"{name}-cache")


def _result(run: Path) -> dict[str, str]:
    kept = {"model", "stage2", "stage1.json"}
    paths = [path for path in sorted(run.rglob("*")) if path.is_file() and path.relative_to(run).parts[0] in kept]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _log(run: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["stage"], line["step"], line.get("loss"), line.get("validation_loss")) for line in lines]


def _place(run: Path) -> str:
    if (run / ".model.partial").exists() or (run / "model").exists():
        return "exporting"
    if list(run.glob("checkpoints/.*")):
        return "writing a checkpoint"
    if list(run.glob("checkpoints/*")):
        return "tuning"
    return "optimising embeddings" if (run / "stage2").exists() else "preparing"
