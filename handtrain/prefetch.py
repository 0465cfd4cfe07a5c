"""Make the next step's input while this one computes, so that data never starves the GPU."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[int], T], steps: range) -> Iterator[tuple[int, T]]:
    """Yield each step with what `make` returns for it; the next is made in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(make, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            ready = coming.result()
            coming = thread.submit(make, step + 1) if step + 1 in steps else None
            yield step, ready
