"""The work of one process on a run: log its steps, save checkpoints when they are due, stop after a signal."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from handdata.errors import Stopped, Unfinished, UserError
from handdata.files import remove
from handdata.machine import STOP_SIGNALS, raise_stop
from handtrain import tensor_cache
from handtrain.compiling import compared
from handtrain.method.micro_batch import is_out_of_memory, release_memory
from handtrain.presets import RunOptions, TrainOptions, trackers_of
from handtrain.run import checkpoint
from handtrain.run.checkpoint import Checkpoint
from handtrain.run.device import peak_mib
from handtrain.run.folder import RunFolder, open_run
from handtrain.run.phases import Phases, table
from handtrain.run.processes import Processes
from handtrain.run.verify import verify


@dataclass
class Session:
    """The open run folder of one process, and the state that its stages share."""

    run: RunFolder
    processes: Processes
    device: torch.device
    resume: Checkpoint | None  # the checkpoint from which the run is resumed
    running: RunOptions
    ideal: Mapping[int, float]  # by stage: seconds per image at the hardware's peak, if it is known
    stops: "StopSignals"
    progress: bool  # show progress bars; in the first process only
    phases: Phases
    writer: checkpoint.Writer
    saved: float = field(default_factory=time.monotonic)  # time of the last checkpoint

    @property
    def stopping(self) -> int:
        """The number of the stop signal that any process has received, 0 without one."""
        return max(self.processes.all_gather(self.stops.received))

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

    def compare_compiling(self, stage: str, whole: bool, passes: int, one_pass: Callable[[], object]) -> None:
        """Compile a stage's pass, which must have no effect, and print what that cost and what its passes save.

        A stage without a `whole` batch is not compiled, see `handtrain.compiling`.
        """
        if not whole:
            if self.progress:
                print(f"handtrain: {stage} has fewer images than a batch and is not compiled", file=sys.stderr)
            return
        text = f"compiling for {stage} was not compared with eager passes, for which memory is short"
        with self.phases.inside("compile"):
            try:
                text = compared(one_pass, self.device).text(stage, passes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            release_memory(self.device)
        if self.progress:
            print(f"handtrain: {text}", file=sys.stderr)

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
        state = self.processes.on_first(lambda: self.resume.state if self.resume else {})
        if state.get("part") != part:
            return 0
        if self.processes.first and self.resume:
            checkpoint.restore(self.resume, module, optimiser, average)
        self.processes.broadcast(module, optimiser)
        return int(state["step"])

    def forget_checkpoint(self, reason: str) -> None:
        """Resume without the checkpoint, from Stage II's shards; in the first process, which decides for all."""
        print(f"handtrain: {reason}; Stage III starts again", file=sys.stderr)
        self.resume = None
        remove(self.run.path / "checkpoints")  # of later steps, next to which new ones would not be kept
        self.run.start_log(_finished_lines(self.run, None), trackers_of(self.running))

    def save_when_due(
        self, name: str, tensors: Iterable[tuple[str, torch.Tensor]], state: dict[str, Any], last: bool
    ) -> None:
        """Save a checkpoint after a signal, or if the previous one is too old; after the last step only to keep it.

        What follows the last step, such as the export, replaces a checkpoint of it. Raises `Stopped` after a signal to
        any process.
        """
        self.writer.check()
        stopping = self.stopping
        due = time.monotonic() - self.saved >= 60 * self.running.checkpoint_minutes
        due = bool(stopping) or (self.running.keep_checkpoints if last else due)
        if due and self.processes.first:
            with self.phases.inside("checkpoints"):
                self.run.sync()
                about = {**state, "log_lines": self.run.lines, "run": self.run.key}
                size = self.writer.save(self.run.path / "checkpoints", name, tensors, about)
                if stopping or last:
                    self.writer.wait()
            self.phases.add("checkpoints", written=size)
            self.saved = time.monotonic()
        self.stop_if(stopping, name)
        if last:
            self.stops.deferred = False
        self.run.restart_clock()

    def finish(self) -> None:
        """Record that the run is finished, with its phases, and print them; remove checkpoints that are not kept."""
        self.writer.wait()
        record = self.phases.record()
        self.run.finish(record)
        if not self.running.keep_checkpoints:
            remove(self.run.path / "checkpoints")
        if self.progress:
            print(f"handtrain: phases of this run\n{table(record)}", file=sys.stderr)

    def stop_if(self, signum: int, place: str) -> None:
        """Raise `Stopped` if a signal was received; its message names the last place that is saved."""
        if signum:
            raise Stopped(f"stopped by a signal after {place}; the same command resumes the run", signum)


class StopSignals:
    """Ctrl-C and SIGTERM of a training: while the UNet is trained they stop it after the step, elsewhere at once.

    Stage II has nothing to save within a batch of images. A second signal always stops the training at once.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the deferred signal
        self.deferred = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals inside the block, if this is the main thread: Python has handlers in no other."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = {signum: signal.signal(signum, self._stop) for signum in STOP_SIGNALS}
        try:
            yield
        finally:
            for signum, handler in self._before.items():
                signal.signal(signum, handler)

    def _stop(self, signum: int, frame: Any) -> None:
        if self.deferred and not self.received:
            self.received = int(signum)
            return
        before = self._before[signum]
        if callable(before):
            before(signum, frame)
        raise_stop(signum)


@contextmanager
def open_session(
    path: Path, config: dict[str, Any], about: dict[str, Any], processes: Processes, device: torch.device,
    running: RunOptions, ideal: Mapping[int, float], progress: bool, phases: Phases, verified: bool = False,
) -> Iterator[Session]:  # fmt: skip
    """Open the run folder in the first process, and find the checkpoint to resume from.

    With `verified` the pieces of a finished run are read again. `config` and `about` are those of `open_run`. Raises
    `UserError` if the processes have different configurations.
    """
    if any(other != config for other in processes.all_gather(config)):
        raise UserError("the processes have different options, data or models: give each the same command and files")
    runs: list[RunFolder] = []

    def first() -> tuple[dict[str, Any], Checkpoint | None]:
        runs.append(stack.enter_context(open_run(path, config, about, absent=asdict(TrainOptions()))))
        if verified and runs[0].finished:
            verify(runs[0])
        with phases.inside("checkpoints"):
            return runs[0].record, _newest_checkpoint(runs[0])

    stops = StopSignals()
    with ExitStack() as stack, stops.handled():
        writer = checkpoint.Writer()
        record, resume = processes.on_first(first)
        stack.callback(writer.close)  # before the folder's lock is released
        run = runs[0] if runs else RunFolder(path, record, silent=True)
        if processes.first and not run.finished:
            run.start_log(_finished_lines(run, resume), trackers_of(running))
        yield Session(run, processes, device, resume, running, ideal, stops, progress, phases, writer)


def _newest_checkpoint(run: RunFolder) -> Checkpoint | None:
    """Return the checkpoint to resume from; newer ones that are damaged or of another run are set aside."""
    folder = run.path / "checkpoints"
    found, damaged = checkpoint.newest(folder, run.key)
    newest = found if found and run.owns(found.state) else None
    if found and not newest:  # of an older version, which stored no key, and run.json is lost
        damaged.append(found.folder.name)
    for name in () if run.finished else damaged:
        checkpoint.set_aside(folder / name)
        instead = f"{newest.folder.name} is used" if newest else "without an older one, its work starts again"
        print(f"handtrain: the checkpoint {name} is damaged or of another run; {instead}", file=sys.stderr)
    return newest


def _finished_lines(run: RunFolder, resume: Checkpoint | None) -> int:
    """Return the number of log lines of finished work: Stage II's shards and the checkpoint to resume from."""
    shards = [tensor_cache.read(path) for path in (run.path / "stage2").glob("*.safetensors")]
    lines = [about.get("log_lines") for _, about in filter(None, shards) if run.owns(about)]
    return max([*(count for count in lines if type(count) is int), resume.state["log_lines"] if resume else 0, 0])
