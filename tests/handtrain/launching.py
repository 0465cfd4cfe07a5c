"""Start `handtrain` in several processes as a launcher does, by forks of a process that has imported all modules."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests import ROOT

# For each line `COUNT PORT SABOTAGE ARGUMENTS...`: fork COUNT processes with a launcher's environment, wait, and print
# their exit codes.
FORK = """
import os, sys
import torch
torch.set_num_threads(1)
import handtrain.training.train, handtrain.cli.flags, diffusers, transformers, datasets, peft
from handdata.cli import program
from handtrain import cli
from handtrain.run import processes

def child(rank, count, port, sabotage, argv):
    if count > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=port)
    if sabotage == "no-all-reduce":
        processes.Processes.add_gradients = lambda self, parameters: None
    if sabotage == "killed-at-step-3" and rank == 1:
        real, calls = processes.Processes.gather_losses, []
        def killed(self, part, count):
            calls.append(1)
            if len(calls) == 4:
                os._exit(9)
            return real(self, part, count)
        processes.Processes.gather_losses = killed
    os._exit(program.main("handtrain", cli.ABOUT, cli.COMMANDS, argv))

for line in sys.stdin:
    count, port, sabotage, *argv = line.split()
    pids = []
    for rank in range(int(count)):
        pid = os.fork()
        if pid == 0:
            child(rank, int(count), port, sabotage, argv)
        pids.append(pid)
    codes = [str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for pid in pids]
    print("END", *codes, flush=True)
"""


class Launcher:
    """A process that forks runs; errors of the runs are collected in `errors`."""

    def __init__(self, folder: Path) -> None:
        self.errors = folder / "errors.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors.open("w"), text=True, env=environment, cwd=ROOT,
        )  # fmt: skip

    def __call__(self, argv: list[str], count: int = 1, sabotage: str = "none") -> list[int]:
        """Run one command in `count` processes; return their exit codes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count} {_free_port()} {sabotage} {' '.join(argv)}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("END"):
                return [int(code) for code in line.split()[1:]]
        raise AssertionError(self.errors.read_text())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
