"""Make the next step's input while this one computes, so that data never starves the GPU."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def ahead(make: Callable[[int], T], steps: range, device: torch.device) -> Iterator[tuple[int, T]]:
    """Yield each step with what `make` returns for it; the next is made in a thread while a GPU computes.

    Where the CPU computes, a thread beside it would have torch's threads twice, waiting for the same cores: steps of
    one image took twice as long.
    """
    if device.type == "cpu":
        yield from ((step, make(step)) for step in steps)
        return
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(make, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            ready = coming.result()
            coming = thread.submit(make, step + 1) if step + 1 in steps else None
            yield step, ready
