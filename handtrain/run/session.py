"""The work of one process on a run: log its steps, save checkpoints when they are due, stop after a signal."""

import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from handdata.errors import Unfinished, UserError
from handtrain import tensor_cache
from handtrain.presets import RunOptions, TrainOptions
from handtrain.run import checkpoint
from handtrain.run.checkpoint import Checkpoint
from handtrain.run.device import peak_mib
from handtrain.run.folder import RunFolder, open_run
from handtrain.run.processes import Processes


@dataclass
class Session:
    """The open run folder of one process, and the state that its stages share."""

    run: RunFolder
    processes: Processes
    device: torch.device
    resume: Checkpoint | None  # the checkpoint from which the run is resumed
    checkpoint_minutes: float
    ideal: Mapping[int, float]  # by stage: seconds per image at the hardware's peak, if it is known
    signals: list[int]  # the stop signals received so far
    progress: bool  # show progress bars; in the first process only
    saved: float = field(default_factory=time.monotonic)  # time of the last checkpoint

    @property
    def hide_bars(self) -> bool | None:
        """The value of tqdm's `disable`: None hides bars unless stderr is a terminal."""
        return None if self.progress else True

    def log_step(
        self, stage: int, step: int, image_ids: list[str], losses: torch.Tensor, lr: float, **more: Any
    ) -> None:
        """Add the line of a step with losses (b,) to the log. Raises `Unfinished` if a loss is not finite."""
        values = losses.double().cpu()
        bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if bad:
            raise Unfinished(
                f"stage {stage}, step {step}: the loss of image {image_ids[bad[0]]} is {values[bad[0]]}; lower the "
                "learning rate of this stage in a new run, or remove the image from the dataset"
            )
        if step % 100 == 0:
            more |= {"peak_mib": peak_mib(self.device), "ideal": self.ideal.get(stage) if step else None}
        self.run.log_step(stage, step, image_ids, float(values.mean()), lr, **more)

    def restore(
        self,
        part: str,
        module: torch.nn.Module,
        optimiser: torch.optim.Optimizer,
        average: Mapping[str, torch.Tensor] | None = None,
    ) -> int:
        """Restore a part of the run from the checkpoint in all processes; return its finished steps, 0 without one.

        The running average of the weights is restored in the first process only, which exports it.
        """
        if self.resume is None or self.resume.state.get("part") != part:
            return 0
        if self.processes.first:
            checkpoint.restore(self.resume, module, optimiser, average)
        self.processes.broadcast(module, optimiser)
        return int(self.resume.state["step"])

    def save_when_due(
        self, name: str, tensors: Iterable[tuple[str, torch.Tensor]], state: dict[str, Any], last: bool
    ) -> None:
        """Save a checkpoint after the last step, after a signal, or if the previous one is too old.

        Raises `Unfinished` after a signal to any process.
        """
        stopping = self.processes.any(bool(self.signals))
        due = last or stopping or time.monotonic() - self.saved >= 60 * self.checkpoint_minutes
        if due and self.processes.first:
            self.run.sync()
            checkpoint.save(self.run.path / "checkpoints", name, tensors, {**state, "log_lines": self.run.lines})
            self.saved = time.monotonic()
        self.stop_if(stopping, name)

    def stop_if(self, stopping: bool, place: str) -> None:
        """Raise `Unfinished` if the run is to stop after a place that the message names."""
        if stopping:
            raise Unfinished(f"stopped by a signal after {place}; the same command resumes the run")


@contextmanager
def open_session(
    path: Path, config: dict[str, Any], about: dict[str, Any], processes: Processes, device: torch.device,
    running: RunOptions, ideal: Mapping[int, float], progress: bool,
) -> Iterator[Session]:  # fmt: skip
    """Open the run folder in the first process, and find the checkpoint to resume from.

    `config` and `about` are those of `open_run`. Raises `UserError` if the processes have different configurations.
    """
    if any(other != config for other in processes.all_gather(config)):
        raise UserError("the processes have different options, data or models: give each the same command and files")
    runs: list[RunFolder] = []

    def first() -> tuple[dict[str, Any], Checkpoint | None]:
        runs.append(stack.enter_context(open_run(path, config, about, absent=asdict(TrainOptions()))))
        return runs[0].record, _newest_checkpoint(path / "checkpoints")

    with ExitStack() as stack, _stop_signals() as signals:
        record, resume = processes.on_first(first)
        run = runs[0] if runs else RunFolder(path, record, silent=True)
        if processes.first and not run.finished:
            run.start_log(_finished_lines(path, resume), running.tensorboard)
        yield Session(run, processes, device, resume, running.checkpoint_minutes, ideal, signals, progress)


def _newest_checkpoint(folder: Path) -> Checkpoint | None:
    newest, damaged = checkpoint.newest(folder)
    for name in damaged:
        print(f"handtrain: the checkpoint {name} is damaged; an older one is used", file=sys.stderr)
    return newest


def _finished_lines(run: Path, resume: Checkpoint | None) -> int:
    """Return the number of log lines of finished work: Stage II's shards and the checkpoint to resume from."""
    shards = [tensor_cache.read(path) for path in (run / "stage2").glob("*.safetensors")]
    lines: list[int] = [about["log_lines"] for _, about in filter(None, shards)]
    return max([*lines, resume.state["log_lines"] if resume else 0])


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM signals in a list; the second one raises `Unfinished` at once."""
    signals: list[int] = []

    def stop(signum: int, frame: Any) -> None:
        if signals:
            raise Unfinished("stopped by a signal; the same command resumes the run")
        signals.append(signum)

    if threading.current_thread() is not threading.main_thread():  # Python has signal handlers in the main thread only
        yield signals
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)
