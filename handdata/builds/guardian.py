"""A process that ends the processes of a cluster when the build that started it has ended, even by SIGKILL.

The processes of a cluster start each other and outlive their parents. All inherit a variable of the environment, which
is found in Linux's /proc; some of Ray's overwrite it with their title, so children of known processes are recorded too.
This file runs as a script and needs the standard library only.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "HAND1000_CLUSTER"  # variable of the environment: a value of its own for each cluster

_LOOK = 0.3  # s between two looks at the parent and at the processes of the cluster
_KILL_AFTER = 2.0  # s from SIGTERM to SIGKILL
_GIVE_UP_AFTER = 60.0  # s: the kernel ends a process that waits for a disk or a GPU only when that answers


@contextmanager
def guarded() -> Iterator[None]:
    """End the processes that are started inside the block, and all that these start, when this process has ended.

    They get SIGTERM, those left 2 s later SIGKILL. Systems without /proc, such as macOS, have no guardian.
    """
    if not Path("/proc/self/environ").exists():
        yield
        return
    outer, value = os.environ.get(MARK), uuid.uuid4().hex
    _start_guardian(value)
    os.environ[MARK] = value
    try:
        yield
    finally:
        del os.environ[MARK]
        if outer is not None:  # this process is itself part of a cluster
            os.environ[MARK] = outer


def _start_guardian(value: str) -> None:
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), value],
        env={name: text for name, text in os.environ.items() if name != MARK},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C of a terminal goes to all processes of its session
    )  # fmt: skip
    guardian.returncode = 0  # it outlives this process: nobody waits for it, and Python need not warn of that


def _guard(parent: int, mark: bytes) -> None:
    """Wait until the parent has ended, then end all processes with the mark."""
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # the build may survive them, or end slowly
        signal.signal(signum, signal.SIG_IGN)
    known: dict[int, str] = {}
    while os.getppid() == parent:
        time.sleep(_LOOK)
        known = _members(mark, known)
    _end(mark, known)


def _end(mark: bytes, known: dict[int, str]) -> None:
    """End all processes of the cluster: SIGTERM once, then SIGKILL, until two looks in a row find none.

    One look may miss a process: its environment reads as empty for an instant while it starts another program.
    """
    began, terminated, empty_looks = time.monotonic(), set[int](), 0
    while empty_looks < 2 and time.monotonic() < began + _GIVE_UP_AFTER:
        known = _members(mark, known)
        kill = time.monotonic() > began + _KILL_AFTER
        for pid in known if kill else known.keys() - terminated:
            with suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        terminated |= known.keys()
        empty_looks = 0 if known else empty_looks + 1
        time.sleep(_LOOK)


def _members(mark: bytes, known: dict[int, str]) -> dict[int, str]:
    """Return the running processes that are known, have the mark, or have a known parent: start time by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            fields = stat.rpartition(")")[2].split()  # from the third field on, the state (man proc); the 22nd is start
            state, parent, start, pid = fields[0], int(fields[1]), fields[19], int(folder.name)
            if state in "ZX":  # ended; its parent has not read that
                continue
            same = known.get(pid) == start or parent in known
            if same or mark in (folder / "environ").read_bytes().split(b"\0"):
                found[pid] = start
    return found


if __name__ == "__main__":
    _guard(int(sys.argv[1]), f"{MARK}={sys.argv[2]}".encode())
