"""Cores, devices, worker processes and stop signals of this machine."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handdata.errors import Unfinished, UserError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that the kernel sends when the parent dies


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread as `KeyboardInterrupt` is for Ctrl-C."""


_share = 0  # cores of this worker process, 0 for a process that has all


def cores() -> int:
    """Return the number of cores that this process may use: its share, where it is one of several workers."""
    return _share or all_cores()


def all_cores() -> int:
    """Return the number of cores that the system gives to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Return the bytes that this process may still allocate without swapping; elsewhere than on Linux 0."""
    group = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        limit = (group / "memory.max").read_text(encoding="ascii").strip() if (group / "memory.max").exists() else "max"
        used = int((group / "memory.current").read_text(encoding="ascii")) if limit != "max" else 0
    except (OSError, ValueError, StopIteration):
        return 0
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        import torch
    except ImportError:  # llama.cpp needs no torch
        return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    return [str(number) for number in range(torch.cuda.device_count())]


def gpu_works() -> bool:
    """Return whether torch can use a GPU of this machine."""
    import torch

    return torch.cuda.is_available()


def take_share(cores: int, gpus: Sequence[str] | None = None) -> None:
    """Limit this worker process to a number of cores, and to these GPUs. Called before torch is imported."""
    global _share
    _share = cores
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))  # torch would start a thread per core in every worker
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)


@contextmanager
def limited_cores(cores: int) -> Iterator[None]:
    """Limit this process to a number of cores inside the block; 0 changes nothing."""
    global _share
    before, _share = _share, cores or _share
    try:
        yield
    finally:
        _share = before


def choose_device(name: str) -> "torch.device":
    """Return torch's device of this name; `auto` is CUDA's GPU, else Apple's (`mps`), else the CPU.

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
            name = "mps" if torch.backends.mps.is_available() else "cpu"
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
) -> Generator[Result, None, None]:
    """Yield `work(item)` for every item, in the order in which they finish.

    `start(*arguments)` runs once in each process. An exception of a worker is raised here and ends the work. Raises
    `Unfinished`, naming `task`, if a worker is killed. Workers leave stop signals to this process, which kills them
    when it is stopped; they end with it in whatever way it ends.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    # numpy's matrix products start a thread per core in every process, and these wait for each other: drawing a
    # picture took 0.18 s of processor time instead of 0.10 s (docs/benchmarks.md)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")  # model libraries keep threads, which do not survive a fork
    others = multiprocessing.active_children()
    main = threading.current_thread() is threading.main_thread()
    first = (os.getpid(), main, start, arguments)
    with ProcessPoolExecutor(workers, context, _start_worker, first) as pool:
        try:
            with _blocked_signals():
                futures = [pool.submit(work, item) for item in items]
            for future in as_completed(futures):
                yield future.result()
            # Here, and not after the block: a signal that interrupts it kills workers that are still starting. They
            # would find the pool's semaphores gone and print a trace.
            pool.shutdown()
        except BrokenProcessPool:
            raise Unfinished(f"a worker of '{task}' was killed, perhaps for memory: use fewer --workers") from None
        except (KeyboardInterrupt, GeneratorExit):  # a shard may take minutes: the next run makes it again
            for child in set(multiprocessing.active_children()) - set(others):
                child.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def raise_stop(signum: int) -> None:
    """Raise the exception of a stop signal: `Terminated` for SIGTERM, `KeyboardInterrupt` for others."""
    raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def same_signal_handlers() -> Iterator[None]:
    """Keep the handlers of stop signals that a library would replace inside the block.

    They are kept from the first moment: a handler of Ray's that ran while its cluster started took 65 s to end. At the
    end they are set again, since native code, such as Ray's, replaces them without Python's knowledge.
    """
    if threading.current_thread() is not threading.main_thread():  # Python has signal handlers in the main thread only
        yield
        return
    original, handlers = signal.signal, {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}

    def keep(signum: Any, handler: Any) -> Any:
        return handlers[signum] if signum in handlers else original(signum, handler)

    signal.signal = keep  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = original
        for signum, handler in handlers.items():
            if handler is not None:  # else native code had set it before
                signal.signal(signum, handler)


def end_with_parent() -> Callable[[], None]:
    """Return a function for `subprocess`'s `preexec_fn`, after which the kernel kills the child when its parent dies.

    The parent is the thread that starts the child. Elsewhere than on Linux the function does nothing.
    """
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    library, parent = ctypes.CDLL(None), os.getpid()  # not in the child: after a fork no library can be loaded

    def end() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return end


def watch_parent(seconds: float = 0.5) -> None:
    """End this process when its parent has died, from a thread that looks every so many seconds."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_worker(
    parent: int, by_main_thread: bool, start: Callable[..., None] | None, arguments: tuple[Any, ...]
) -> None:
    """Prepare a worker process to end with its parent, then call `start`."""
    import multiprocessing
    from multiprocessing.connection import wait

    above = multiprocessing.parent_process()
    assert above is not None, "a worker process has a parent"
    sentinel = above.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux" and by_main_thread:  # the kernel signals the end of the thread; it needs no Python lock
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    if start is not None:
        start(*arguments)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block stop signals in processes that are started inside the block; here they arrive when it ends.

    A terminal sends Ctrl-C to all processes, and a scheduler SIGTERM: only the first one can end in good order.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    came: list[int] = []  # a thread of a library may take the signal, and its handler runs in the main thread even so
    handlers = _replaced_handlers(lambda signum, _: came.append(signum))
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if came:
            signal.raise_signal(came[0])


def _replaced_handlers(other: Callable[[int, Any], None]) -> dict[int, Any]:
    """Set the handler of the stop signals that have one in Python, and return the previous ones."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    previous = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    return {signum: signal.signal(signum, other) for signum, handler in previous.items() if callable(handler)}
