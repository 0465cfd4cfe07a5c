"""The images of every training step, and their input loaded one step ahead."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from handtrain.method.noise import shuffled

T = TypeVar("T")


def batch_of(step: int, count: int, batch: int, epochs: int, seed: int, part: str) -> list[tuple[int, int]]:
    """Return the (image, epoch) pairs of a step.

    The images of all epochs, each epoch shuffled by the seed, form one sequence that is cut into batches: every image
    is seen exactly `epochs` times, and a batch may contain images of two epochs.
    """
    places = range(step * batch, min((step + 1) * batch, count * epochs))
    orders = {epoch: shuffled(seed, part, count, epoch) for epoch in {place // count for place in places}}
    return [(orders[place // count][place % count], place // count) for place in places]


def steps_of(count: int, batch: int, epochs: int) -> int:
    """Return the number of steps in which `count` images are seen `epochs` times."""
    return -(-count * epochs // batch)


def ahead(load: Callable[[int], T], steps: range, device: torch.device) -> Iterator[tuple[int, T]]:
    """Yield each step with the result of `load`; with a GPU a thread loads the next step during the computation.

    On a CPU a thread would double torch's threads, which then wait for the same cores: steps of one image took twice
    as long.
    """
    if device.type == "cpu":
        yield from ((step, load(step)) for step in steps)
        return
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(load, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            ready = coming.result()
            coming = thread.submit(load, step + 1) if step + 1 in steps else None
            yield step, ready
