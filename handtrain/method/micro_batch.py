"""Micro-batches: a batch goes through the model in parts, so that its activations fit into memory."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch


class MicroBatch:
    """The number of images in one forward pass. `auto` starts with the whole batch and halves it when memory runs out.

    The gradients of the parts add up, so a step is the same except for rounding.
    """

    def __init__(self, size: int | Literal["auto"] = 0) -> None:
        self.auto = size == "auto"
        self.size = 0 if size == "auto" else size  # 0: the whole batch

    def parts(self, count: int) -> list[slice]:
        """Return the slices of a batch of `count` images."""
        return parts(count, self.size)

    def halve(self, error: BaseException, count: int) -> None:
        """Halve the size after a step of `count` images failed; raise the error again unless a smaller size helps."""
        size = min(self.size or count, count)
        if not (self.auto and size > 1 and is_out_of_memory(error)):
            raise error
        self.size = (size + 1) // 2

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Keep the size inside the block, which `halve` leaves with the error."""
        auto, self.auto = self.auto, False
        try:
            yield
        finally:
            self.auto = auto


def parts(count: int, size: int) -> list[slice]:
    """Return the slices that cut `count` images into parts of `size`; 0 means one part."""
    size = size or count or 1
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that the memory of a GPU or of the machine is exhausted."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def release_memory(device: torch.device) -> None:
    """Free the activations of a failed step. Call this after the `except` block: the error still holds them there."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
