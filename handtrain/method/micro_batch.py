"""Memory: what runs out of it, how a batch is cut so that it does not, and how much was used at most."""

import contextlib
import ctypes
import gc
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from handtrain.method.diffusion import parts


class MicroBatch:
    """How many images go through the model at once. `auto` starts with all and halves where memory does not suffice.

    Gradients add up, so the step is the same but for rounding.
    """

    def __init__(self, size: int | Literal["auto"] = 0) -> None:
        self.auto = size == "auto"
        self.size = 0 if size == "auto" else size  # 0: the whole batch

    def losses(
        self, count: int, piece: Callable[[slice], torch.Tensor], forget: Callable[[], None], device: torch.device
    ) -> torch.Tensor:
        """Return the losses (count,) of a batch.

        `piece` computes a part of it forwards and backwards and returns its losses; `forget` drops the gradients that
        the pieces before left, so that the batch can begin again.
        """
        if count == 0:
            return torch.empty(0, device=device)
        while True:
            try:
                return torch.cat([piece(part) for part in parts(count, self.size)])
            except (RuntimeError, MemoryError) as error:
                size = min(self.size or count, count)
                if not (self.auto and size > 1 and is_out_of_memory(error)):
                    raise
            self.size = (size + 1) // 2
            forget()
            gc.collect()  # the failed step's activations
            if device.type == "cuda":
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "not enough memory" in said)


def peak_mib(device: torch.device) -> float:
    """Return the most memory that was used so far: on a GPU by tensors, else by the process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def restart_peak(device: torch.device) -> None:
    """Forget the most memory that was used so far; what is free goes back to the machine first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError, AttributeError):  # glibc on Linux; elsewhere the peak is that of all turns
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def top_mib(device: torch.device) -> float:
    """Return the most memory that was used since `restart_peak`."""
    status = Path("/proc/self/status")
    if device.type == "cuda" or not status.exists():
        return peak_mib(device)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 2**10, 1)
