"""Work in several processes of this machine, with one clear sentence if one of them is killed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from handdata.errors import Unfinished

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_unordered(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    what: str,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Yield `work(item)` for every item, in the order in which they finish.

    `start(*arguments)` runs once in each process. What a worker raises is raised here, and nothing more is begun.
    Raises `Unfinished`, naming `what`, if a worker is killed.
    """
    import multiprocessing
    import os
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    # numpy's matrix products would start a thread per core in every one of the processes, which wait for each other:
    # drawing a picture took 0.18 s of processor instead of 0.10 s (docs/benchmarks.md)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")  # model libraries keep threads, which do not survive a fork
    with ProcessPoolExecutor(workers, context, start, arguments) as pool:
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                yield future.result()
        except BrokenProcessPool:
            raise Unfinished(f"a worker of '{what}' was killed, perhaps for memory: use fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)
