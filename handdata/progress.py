"""Progress on stderr: tqdm's bar on a terminal, elsewhere (a log file, a batch system) a plain line every 30 seconds.

The only module that imports tqdm. Lines come from one thread, so that an item that takes minutes is not silent.
"""

import multiprocessing
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from typing import Any, Generic, Protocol, Self, TypeVar, cast, overload

_PLURALS = {"B": "B", "batch": "batches"}
EVERY = 30.0  # seconds between lines; work that ends sooner prints none

Item = TypeVar("Item")
Held = TypeVar("Held", covariant=True)


class Bar(Protocol[Held]):
    """The part of tqdm's interface that is in use."""

    n: float
    total: float | None

    def __iter__(self) -> Iterator[Held]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def update(self, n: float = 1) -> Any: ...
    def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any) -> None: ...
    def close(self) -> None: ...


@overload
def bar(iterable: None = None, *, show: bool = True, **options: Any) -> Bar[Any]: ...
@overload
def bar(iterable: Iterable[Item], *, show: bool = True, **options: Any) -> Bar[Item]: ...
def bar(iterable: Iterable[Item] | None = None, *, show: bool = True, **options: Any) -> Bar[Item]:
    """Return a progress bar over an iterable, or one that `update` moves; the options are tqdm's.

    With `show` false nothing is printed. Worker processes print no lines: the process that started them does.
    """
    terminal = bool(getattr(sys.stderr, "isatty", bool)())
    if show and not terminal and multiprocessing.parent_process() is None:
        return Lines(iterable, **options)
    from tqdm import tqdm

    return cast(Bar[Item], tqdm(iterable, disable=not (show and terminal), **options))


class Lines(Generic[Item]):
    """A progress bar that prints a plain line every `EVERY` seconds, and one at the end of work that printed any."""

    def __init__(
        self, iterable: Iterable[Item] | None = None, *, desc: str = "", total: float | None = None, unit: str = "it",
        unit_scale: bool = False, initial: float = 0, **_: Any,
    ) -> None:  # fmt: skip
        self._items, self._name, self._unit, self._scaled = iterable, desc, unit, unit_scale
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self.n = self._initial = initial
        self._postfix, self._printed = "", False
        self._started = time.monotonic()
        self.due = self._started + EVERY
        _timer.add(self)

    def __iter__(self) -> Iterator[Item]:
        assert self._items is not None, "this bar has no iterable: call update"
        with self:
            for item in self._items:
                yield item
                self.n += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        self.n += n

    def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any) -> None:
        self._postfix = ", ".join(f"{name} {value}" for name, value in {**(ordered_dict or {}), **values}.items())

    def close(self) -> None:
        """End the bar; nothing is printed after it."""
        if _timer.remove(self) and self._printed:
            self.print()

    def print(self) -> None:
        """Print a line with what is done, the rate and the time left."""
        self._printed = True
        with suppress(OSError, ValueError):  # stderr was closed
            print(self, file=sys.stderr, flush=True)

    def __str__(self) -> str:
        from tqdm import tqdm

        seconds = time.monotonic() - self._started
        rate = (self.n - self._initial) / seconds if seconds > 0 else 0.0
        count = self._amount(self.n) + (f" of {self._amount(self.total)}" if self.total else "")
        parts = [f"{count} {_PLURALS.get(self._unit, f'{self._unit}s')}", f"{tqdm.format_interval(seconds)} elapsed"]
        if rate:
            parts.append(f"{tqdm.format_sizeof(rate) if self._scaled else f'{rate:.3g}'} {self._unit}/s")
        if rate and self.total and self.total > self.n:
            parts.append(f"{tqdm.format_interval((self.total - self.n) / rate)} left")
        return f"{self._name or 'progress'}: {', '.join([*parts, self._postfix] if self._postfix else parts)}"

    def _amount(self, value: float) -> str:
        from tqdm import tqdm

        return tqdm.format_sizeof(value) if self._scaled else f"{value:,}"


class _Timer:
    """One thread for the lines of all live bars; it ends with the last of them."""

    def __init__(self) -> None:
        self._bars: weakref.WeakSet[Lines[Any]] = weakref.WeakSet()  # an abandoned bar prints no line
        self._changed = threading.Condition()
        self._running = False

    def add(self, lines: Lines[Any]) -> None:
        with self._changed:
            self._bars.add(lines)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="progress", daemon=True).start()

    def remove(self, lines: Lines[Any]) -> bool:
        """Return whether the bar was live."""
        with self._changed:
            live = lines in self._bars
            self._bars.discard(lines)
            self._changed.notify()
            return live

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._bars:
                    self._running = False
                    return
                now = time.monotonic()
                for lines in sorted(self._bars, key=lambda lines: lines.due):
                    if lines.due <= now:
                        lines.print()
                        lines.due += EVERY * (1 + (now - lines.due) // EVERY)
                self._changed.wait(max(0.0, min((lines.due for lines in self._bars), default=now) - time.monotonic()))


_timer = _Timer()


def _after_fork() -> None:
    global _timer  # the thread does not exist in the child, and its bars are the parent's
    _timer = _Timer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
