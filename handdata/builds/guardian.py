"""A process that ends the processes of a cluster when the build that started it has ended, even by SIGKILL.

The processes of a cluster start each other, outlive their parents and change their titles. All inherit a variable of
the environment, which is found in Linux's /proc. This file runs as a script and needs the standard library only.
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

_LOOK = 0.2  # s between two looks at the parent, and at the processes that are left
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
    while os.getppid() == parent:
        time.sleep(_LOOK)
    _end_marked(mark)


def _end_marked(mark: bytes) -> None:
    """End all processes with the mark: SIGTERM once, then SIGKILL, until two looks in a row find none.

    One look may miss a process: its environment reads as empty for an instant while it starts another program.
    """
    began, terminated, empty_looks = time.monotonic(), set[int](), 0
    while empty_looks < 2 and time.monotonic() < began + _GIVE_UP_AFTER:
        left = _marked(mark)
        kill = time.monotonic() > began + _KILL_AFTER
        for pid in left if kill else left - terminated:
            with suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        terminated |= left
        empty_looks = 0 if left else empty_looks + 1
        time.sleep(_LOOK)


def _marked(mark: bytes) -> set[int]:
    """Return the ids of the processes whose environment has the mark. That of a zombie is empty."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if mark in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found


if __name__ == "__main__":
    _guard(int(sys.argv[1]), f"{MARK}={sys.argv[2]}".encode())
