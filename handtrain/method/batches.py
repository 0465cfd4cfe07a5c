"""The images of every training step, and their input loaded one step ahead."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
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


@dataclass(frozen=True)
class Order:
    """The images of every step of Stage III: the gestures' in turns, and a share of the base model's own pictures."""

    groups: tuple[range, ...]  # rows of each gesture
    batch: int  # images per step
    seen: int  # images of the gestures in all steps
    seed: int
    part: str
    prior: range = range(0)  # rows of the base model's pictures
    prior_batch: int = 0  # images per step from `prior`

    @property
    def steps(self) -> int:
        """The number of steps."""
        return -(-self.seen // (self.batch - self.prior_batch))

    def __call__(self, step: int) -> list[tuple[int, int]]:
        """Return the (row, epoch) pairs of a step. With one gesture and no prior they are those of `batch_of`.

        The gestures take turns, so every batch has as many of each, up to one; each is shuffled by itself.
        """
        own = self.batch - self.prior_batch
        pairs = []
        for place in range(step * own, min((step + 1) * own, self.seen)):
            turn, number = place // len(self.groups), place % len(self.groups)
            name = self.part if len(self.groups) == 1 else f"{self.part}/{number}"
            pairs.append((self.groups[number], name, turn))
        first = step * self.prior_batch
        pairs += [(self.prior, f"{self.part}/prior", first + place) for place in range(self.prior_batch)]
        return [self._row(rows, name, turn) for rows, name, turn in pairs]

    def _row(self, rows: range, name: str, turn: int) -> tuple[int, int]:
        epoch, place = divmod(turn, len(rows))
        return rows[_order(self.seed, name, len(rows), epoch)[place]], epoch


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


@lru_cache(maxsize=64)  # the orders of the epochs that are under way
def _order(seed: int, part: str, count: int, epoch: int) -> list[int]:
    return shuffled(seed, part, count, epoch)
