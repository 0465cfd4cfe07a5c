"""The guardian of a cluster, on processes of our own: all that a dead process left behind, and nothing else, ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handdata.builds.guardian import MARK, guarded
from tests import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")

# Prints the process ids of a sleeper, of one that ignores SIGTERM, of a grandchild whose parent has ended in another
# session, which starts later children of its own, of a child without the mark of a marked one, and of a sleeper that
# was started outside the block; then waits.
STARTER = """
import os, signal, subprocess, sys
from handdata.builds.guardian import guarded

SLEEP = [sys.executable, "-c", "import time; print(0, flush=True); time.sleep(60)"]
STUBBORN = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN);" + SLEEP[-1]]
TWICE = '''
import os, subprocess, sys, time
if os.fork():
    os._exit(0)
os.setsid()
print(os.getpid(), flush=True)
while True:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.05)"])
'''

WITHOUT = [sys.executable, "-c", '''
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={}).pid, flush=True)
time.sleep(60)
''']

def start(command):
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return int(child.stdout.readline()) or child.pid

with guarded():
    marked = [start(SLEEP), start(STUBBORN), start([sys.executable, "-c", TWICE]), start(WITHOUT)]
print(*marked, start(SLEEP), flush=True)
sys.stdin.readline()
"""


class Started:
    """A running `STARTER` with its processes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        *self.marked, self.unmarked = map(int, self.process.stdout.readline().split())
        (self.guardian,) = (pid for pid in children(self.process.pid) if b"guardian.py" in command_line(pid))

    def end(self) -> None:
        for pid in [*self.marked, self.unmarked]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[], Started]]:
    started: list[Started] = []

    def new() -> Started:
        started.append(Started())
        return started[-1]

    yield new
    for one in started:
        one.end()


def alive(pid: int) -> bool:
    """Return whether a process runs. A zombie, whose parent has not read its end, does not."""
    return bool(command_line(pid))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children(parent: int) -> list[int]:
    return list(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))


def left_after(pids: list[int], seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    while (left := list(filter(alive, pids))) and time.monotonic() < end:
        time.sleep(0.02)
    return left


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, None], ids=["SIGKILL", "SIGTERM", "orderly"])
def test_all_that_was_started_in_the_block_ends_with_the_process_and_nothing_else(
    start: Callable[[], Started], signum: int | None
) -> None:
    ended, other = start(), start()
    time.sleep(1.5)  # the guardian looks every 0.3 s
    if signum is None:
        ended.process.communicate("\n")
    else:
        ended.process.send_signal(signum)
        ended.process.wait()
    assert left_after([*ended.marked, ended.guardian], 8) == []
    assert all(map(alive, [ended.unmarked, *other.marked, other.unmarked, other.guardian]))


def test_a_process_that_obeys_sigterm_does_not_wait_for_the_one_that_does_not(start: Callable[[], Started]) -> None:
    ended = start()
    sleeper, stubborn, *_ = ended.marked
    ended.process.kill()
    assert left_after([sleeper], 1.5) == [] and alive(stubborn)


def test_the_guardian_survives_ctrl_c_and_sigterm_while_its_build_runs(start: Callable[[], Started]) -> None:
    started = start()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(started.guardian, signum)
    assert os.getpgid(started.guardian) != os.getpgid(started.process.pid)
    time.sleep(0.5)
    assert all(map(alive, [started.guardian, *started.marked]))


def test_the_block_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MARK, raising=False)
    with guarded():
        outer = os.environ[MARK]
        with guarded():
            assert os.environ[MARK] != outer
        assert os.environ[MARK] == outer
    assert MARK not in os.environ
