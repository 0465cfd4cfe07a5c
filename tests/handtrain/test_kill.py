"""SIGKILL at any moment: the same command again must end in the same weights, bit for bit."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.handtrain.tiny import write_dataset

KILLS = 20
# What a run does in its own code, once the imports (seconds) are over; a kill lands somewhere in here.
RUN = """
import os, sys, threading, time, signal
import torch
torch.set_num_threads(1)
import handtrain.train, handtrain.verbs, diffusers, transformers, datasets
from handtrain import cli
from handdata import commands
for line in sys.stdin:
    delay, *argv = line.split()
    child = os.fork()  # imported once, killed many times
    if child == 0:
        if float(delay) >= 0:
            threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL)).start()
        sys.stdout.flush()
        code = commands.main("handtrain", cli.ABOUT, cli.COMMANDS, argv)
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print("END", os.waitstatus_to_exitcode(status), flush=True)
"""


class Runner:
    """A process that has everything imported and forks a training run for each line it is given."""

    def __init__(self, home: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def __call__(self, argv: list[str], delay: float = -1) -> tuple[int, float]:
        """Run once, killed after `delay` seconds (negative: not at all); return the exit code and the seconds it took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        start = time.monotonic()
        self.process.stdin.write(f"{delay} {' '.join(argv)}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("END"):
                return int(line.split()[1]), time.monotonic() - start
        raise AssertionError(f"the runner ended with {self.process.wait()}")


@pytest.fixture
def runner(tmp_path: Path):
    made = Runner(tmp_path / "home")
    yield made
    made.process.kill()
    made.process.wait()


def _result(run: Path) -> dict[str, str]:
    files = {"model", "stage2", "stage1.json"}
    paths = [path for path in sorted(run.rglob("*")) if path.is_file() and path.relative_to(run).parts[0] in files]
    hashes = {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    about = json.loads((run / "model" / "hand1000.json").read_text())
    hashes["model/hand1000.json"] = json.dumps(about, sort_keys=True)
    return hashes


def _log(run: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["stage"], line["step"], line.get("loss"), line.get("validation_loss")) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--preset", "paper", "--unet-epochs", "4", "--embedding-batch", "2", "--embedding-steps", "4"],
        ["--preset", "plus", "--unet-epochs", "4", "--unet-batch", "2", "--fusion-epochs", "2", "--fusion-batch", "2"],
        ["--preset", "reference", "--unet-epochs", "3", "--embedding-steps", "3"],
    ],
    ids=["paper", "plus", "reference"],
)
def test_killed_and_continued_runs_end_like_an_undisturbed_one(
    base: Path, tmp_path: Path, runner: Runner, flags: list[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset", train=6)
    common = ["train", "--dataset", str(dataset), "--gesture", "call", "--base", str(base), "--device", "cpu", *flags]
    common += ["--validate-every", "5", "--sample-every", "10", "--sample-steps", "1", "--no-tensorboard"]

    def command(name: str) -> list[str]:
        # A cache of its own, so that kills hit the encoding too; a checkpoint after every step, so that they hit those.
        places = ["--out", str(tmp_path / name), "--cache", str(tmp_path / f"{name}-cache")]
        return [*common, *places, "--checkpoint-minutes", "0"]

    runner(command("warm-up"))
    code, seconds = runner(command("undisturbed"))
    assert code == 0
    dice, kills = random.Random(0), 0
    places: list[str] = []
    for attempt in range(400):
        if kills == KILLS:
            break
        name = f"killed-{attempt // 4}"  # a few kills on each run, early and late
        if (tmp_path / name / "model").exists():
            continue
        code, _ = runner(command(name), dice.uniform(0, seconds))
        assert code in (0, -signal.SIGKILL)
        if code:
            kills += 1
            places.append(_where(tmp_path / name))
    assert kills == KILLS
    print(f"killed while: {sorted(set(places))}")
    expected = _result(tmp_path / "undisturbed")
    for run in sorted(tmp_path.glob("killed-*")):
        if run.name.endswith("-cache"):
            continue
        code, _ = runner(command(run.name))
        assert code == 0, run
        assert _result(run) == expected, run
        assert _log(run) == _log(tmp_path / "undisturbed"), run
        assert not list(run.rglob("*.partial"))
        assert len(list((run / "checkpoints").iterdir())) <= 2


def _where(run: Path) -> str:
    if (run / ".model.partial").exists():
        return "exporting"
    if list(run.glob("checkpoints/.*")):
        return "writing a checkpoint"
    if list(run.glob("checkpoints/*")):
        return "tuning"
    return "optimising embeddings" if (run / "stage2").exists() else "preparing"
