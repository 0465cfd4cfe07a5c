"""The command `handdata` in forked processes whose shards have 3 rows, so that a small build has many of them.

The fork server imports this module, and with it the libraries of all stages, once.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import handdata.rows.shards

handdata.rows.shards.SHARD_ROWS = 3  # before the modules that import it
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mediapipe.tasks.python.vision  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers  # noqa: E402, F401

from handdata.cli import ABOUT, COMMANDS, program  # noqa: E402


def command(argv: list[str], log: str) -> None:
    """Run a command line of handdata in this process, its output in a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(program.main("handdata", ABOUT, COMMANDS, argv))


def start(argv: list[str], log: Path) -> multiprocessing.Process:
    """Start a command line in a process of its own; its output goes to a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.small_shards"])
    process = context.Process(target=command, args=([str(word) for word in argv], str(log)))
    process.start()
    return process  # type: ignore[return-value]
