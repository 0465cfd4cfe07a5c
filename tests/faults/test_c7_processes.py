"""No process outlives a command that was killed or stopped, and the same command ends as if nothing had happened."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handdata.cli.program import main
from handdata.errors import Stopped
from handtrain.cli import COMMANDS
from handtrain.training import loop, released_order
from tests import ROOT, hagrid

ROWS = 600  # three shards, so that there is work for two processes
MARK = "HAND1000_TEST_MARK"


class Command:
    """A command in processes that can be found again: by its session, or the mark in their environment.

    Ray's processes overwrite parts of their environment with their title.
    """

    def __init__(self, *words: object, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment, MARK: self.mark}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, words)], cwd=ROOT, env=variables, text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def alive(self) -> list[int]:
        """Return the ids of all processes of this command, also of those whose parent has died."""
        found, wanted = [], f"{MARK}={self.mark}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                state, _, _, session = (path.parent / "stat").read_text().rpartition(")")[2].split()[:4]
                same = int(session) == self.process.pid and state not in "ZX"
                if same or wanted in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:  # it has ended, or belongs to another user
                continue
        return found

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)

    def left_after(self, seconds: float) -> list[int]:
        """Return the processes that are alive after so many seconds, an empty list as soon as there are none."""
        end = time.monotonic() + seconds
        while self.alive() and time.monotonic() < end:
            time.sleep(0.05)
        return self.alive()

    def end(self) -> str:
        """Kill what is left; return stderr."""
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)
        return str(self.process.communicate(timeout=60)[1])


def needs_proc() -> pytest.MarkDecorator:
    return pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")


pytestmark = needs_proc()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    hagrid.world(train=ROWS // 2, val=2, test=2).write_folder(folder / "world")
    source, counts = {"kind": "folder", "images": "world"}, {"train": ROWS // 2 - 40, "validation": 1, "test": 1}
    return hagrid.write_recipe(folder, source, max_per_subject=0, **counts)


def build(recipe: Path, out: Path, until: str) -> Command:
    return Command("handdata", "build", recipe, "--out", out, "--until", until, "--workers", "2")


def contents(build: Path) -> dict[str, str]:
    """Return the hash of every finished file but the record of the runs."""
    files = sorted(path for path in build.rglob("*") if path.suffix in (".parquet", ".jpg"))
    return {str(path.relative_to(build)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def finish(recipe: Path, out: Path, until: str) -> dict[str, str]:
    command = build(recipe, out, until)
    errors = command.process.communicate(timeout=300)[1]
    assert command.process.returncode == 0, errors[-2000:]
    return contents(out)


def stopped(command: Command, signum: int, seconds: float) -> None:
    """Send a signal to the first process, and check that all end, with one sentence if that was possible."""
    running = command.process.poll() is None
    command.process.send_signal(signum)
    began = time.monotonic()
    left = [_title(pid) for pid in command.left_after(seconds)]
    print(f"{len(left)} processes are left {time.monotonic() - began:.1f} s after signal {signum}")
    errors = command.end()
    assert not left, f"{len(left)} processes are left {seconds} s after signal {signum}: {left}"
    assert signum == signal.SIGKILL or "Traceback" not in errors, errors  # SIGKILL may meet a child that is starting
    if running and signum != signal.SIGKILL and command.process.returncode:
        assert command.process.returncode in (128 + signum, -signum), errors  # minus: before Python has started
        assert command.process.returncode < 0 or errors.count("the same command resumes") == 1, errors


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_c7_no_worker_is_left_when_a_drawing_ends_at_a_signal(tmp_path: Path, signum: int) -> None:
    """The workers of `render`, which are started by the same function as those of a build."""
    command = Command("handdata", "render", "--out", tmp_path / "drawn", "--workers", "2", "--train", "50")
    command.wait_for(lambda: len(command.alive()) >= 3 and bool(list(tmp_path.rglob("*.json"))))
    assert len(command.alive()) >= 3, command.end()
    stopped(command, signum, 5)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """Return the files of a build that nobody stopped, and the seconds that it took."""
    began = time.monotonic()
    files = finish(recipe, tmp_path_factory.mktemp("undisturbed") / "build", "landmarks")
    return files, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_c7_after_twenty_signals_no_worker_of_a_build_is_left_and_the_end_is_the_same(
    recipe: Path, undisturbed: tuple[dict[str, str], float], tmp_path: Path, signum: int
) -> None:
    (files, duration), chance, with_workers = undisturbed, random.Random(signum), 0
    for number in range(20):
        out = tmp_path / f"build-{number // 5}"  # five signals on each, then it is finished
        command = build(recipe, out, "landmarks")
        if number % 2:
            command.wait_for(lambda command=command: len(command.alive()) >= 3)
            time.sleep(chance.uniform(0, 3))
        else:
            time.sleep(chance.uniform(0.2, 1) * duration)
        with_workers += len(command.alive()) >= 3
        stopped(command, signum, 5)
        if number % 5 == 4:
            assert finish(recipe, out, "landmarks") == files
            assert not list(out.rglob("*.partial"))
    assert with_workers >= 5, "most signals came when no worker was running"


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_c7_a_ray_cluster_of_a_build_ends_with_it(recipe: Path, tmp_path: Path, signum: int) -> None:
    pytest.importorskip("ray")
    words = ["handdata", "build", recipe, "--out", tmp_path / "build", "--until", "landmarks"]
    command = Command(*words, "--engine", "ray", "--workers", "1")
    command.wait_for(lambda: any(b"MapWorker" in _title(pid) for pid in command.alive()), 120)
    assert command.process.poll() is None, command.end()
    stopped(command, signum, 10)


@pytest.mark.slow
def test_c7_a_ray_cluster_that_a_build_joined_stays_without_its_workers(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    head = Command("tests.faults.ray_cluster", tmp_path / "address", RAY_AUTH_MODE="disabled")
    try:
        head.wait_for((tmp_path / "address").exists, 120)
        address = (tmp_path / "address").read_text()
        words = ["handdata", "build", recipe, "--out", tmp_path / "build", "--until", "landmarks"]
        direct = {"RAY_ADDRESS": address, "no_grpc_proxy": address.partition(":")[0]}  # not through a proxy
        command = Command(*words, "--engine", "ray", "--workers", "1", **direct)
        command.wait_for(lambda: any(b"MapWorker" in _title(pid) for pid in head.alive()), 120)
        assert command.process.poll() is None, "no actor was working"
        end = time.monotonic() + 10
        stopped(command, signal.SIGKILL, 10)
        while any(b"MapWorker" in _title(pid) for pid in head.alive()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not [pid for pid in head.alive() if b"MapWorker" in _title(pid)]
        assert head.process.poll() is None and len(head.alive()) > 1, "the cluster has ended too"
    finally:
        head.process.send_signal(signal.SIGTERM)
        head.left_after(10)
        head.end()


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from tests.handtrain.tiny import write_base, write_dataset

    folder = tmp_path_factory.mktemp("training")
    base, dataset = write_base(folder / "base"), write_dataset(folder / "dataset")
    words = ["train", "--dataset", dataset, "--gesture", "call", "--base", base, "--device", "cpu", "--no-tensorboard"]
    words += ["--sample-every", "0", "--validate-every", "0", "--cache", folder / "cache"]
    return list(map(str, words))


@pytest.mark.parametrize(
    ("signum", "module", "flags", "place"),
    [
        (signal.SIGINT, loop, ["--preset", "smoke", "--unet-epochs", "3"], "stage3-00000002"),
        (
            signal.SIGTERM, released_order, ["--preset", "reference", "--unet-epochs", "2", "--embedding-steps", "2"],
            "images-00000001",
        ),
    ],
    ids=["Ctrl-C", "SIGTERM in the released order"],
)  # fmt: skip
def test_c7_a_stopped_training_saves_a_checkpoint_and_prints_one_sentence(
    training: list[str], tmp_path: Path, signum: int, module: Any, flags: list[str], place: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    real, steps = module.tuning_step, []

    def signalled(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signum)
        return real(*arguments)

    monkeypatch.setattr(module, "tuning_step", signalled)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = main("handtrain", "", COMMANDS, [*training, *flags, "--out", str(tmp_path / "run")])
    assert code == 128 + signum
    sentence = f"handtrain: stopped by a signal after {place}; the same command resumes the run"
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1] == sentence and "Traceback" not in errors
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [place]


def test_c7_the_error_of_a_stop_passes_between_processes_with_its_number() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(Stopped("stopped; resume", 15)))
    assert (str(error), error.signum) == ("stopped; resume", 15)


WAITING = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from handdata.cli import program

class Render:
    def __call__(self):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(threading.Event().wait, 60)
            print("waiting", flush=True)
            threading.Event().wait(60)

program._run = lambda *_: Render()()
sys.exit(program.main("handdata", "", {}, ["render"]))
"""


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen]:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        yield process
        process.kill()


@pytest.mark.parametrize(("signals", "seconds"), [(1, 8), (2, 2)])
def test_c7_a_thread_that_waits_for_a_server_holds_up_the_end_for_seconds_only(
    waiting: subprocess.Popen, signals: int, seconds: float
) -> None:
    began = time.monotonic()
    for _ in range(signals):
        waiting.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    errors = waiting.communicate(timeout=30)[1]
    assert waiting.returncode == 143 and time.monotonic() - began < seconds
    assert errors == "handdata: interrupted; the same command resumes\n"
