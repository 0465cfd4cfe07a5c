"""Cores, devices and worker processes of this machine."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handdata.errors import Unfinished, UserError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> "torch.device":
    """Return torch's device of this name; `auto` is a GPU if the machine has one, else the CPU.

    Raises `UserError` for a device that torch cannot use, and for `auto` on a machine whose GPU torch cannot use.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists():
            raise UserError(
                "--device auto: this machine has a GPU that torch cannot use: fix the driver, or use --device cpu"
            )
        else:
            name = "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def map_unordered(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    task: str,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Yield `work(item)` for every item, in the order in which they finish.

    `start(*arguments)` runs once in each process. An exception of a worker is raised here and ends the work. Raises
    `Unfinished`, naming `task`, if a worker is killed.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    # numpy's matrix products start a thread per core in every process, and these wait for each other: drawing a
    # picture took 0.18 s of processor time instead of 0.10 s (docs/benchmarks.md)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")  # model libraries keep threads, which do not survive a fork
    with ProcessPoolExecutor(workers, context, start, arguments) as pool:
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                yield future.result()
        except BrokenProcessPool:
            raise Unfinished(f"a worker of '{task}' was killed, perhaps for memory: use fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)
