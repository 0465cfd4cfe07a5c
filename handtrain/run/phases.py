"""The seconds and bytes of a run's phases, from the start of the program to the exported model."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_IO = Path("/proc/thread-self/io")  # Linux; bytes that this thread has read and written, memory-mapped files excluded

HEAD = ("phase", "time", "share", "read", "written")
_KEYS = ("seconds", "read", "written")  # of a record's phase; bytes


class _Reading(NamedTuple):
    seconds: float
    read: int  # bytes
    written: int


class Phases:
    """A timer that is in one phase at a time: the phase `start` until `begin` names another one.

    Times are exclusive: a phase `inside` another one is not counted in the outer one. Bytes are those of the thread
    that uses the timer; elsewhere than on Linux they are 0.
    """

    def __init__(self, started: float | None = None) -> None:
        """Start in the phase `start`, at a time of `time.monotonic` or now."""
        self._names = ["start"]
        self._totals: dict[str, _Reading] = {}
        self._last = _reading() if started is None else _reading()._replace(seconds=started)

    def begin(self, name: str) -> None:
        """End the present phase and begin another one, or continue it."""
        self._count()
        self._names[-1] = name

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Count the block as a phase of its own."""
        self._count()
        self._names.append(name)
        try:
            yield
        finally:
            self._count()
            self._names.pop()

    def add(self, name: str, seconds: float = 0.0, read: int = 0, written: int = 0) -> None:
        """Add what another thread has done, or the bytes of a memory-mapped file, to a phase."""
        before = self._totals.get(name, _Reading(0.0, 0, 0))
        self._totals[name] = _Reading(before.seconds + seconds, before.read + read, before.written + written)

    def record(self) -> dict[str, dict[str, Any]]:
        """Return seconds and bytes by phase, in the order in which the phases began."""
        self._count()
        return {
            name: {"seconds": round(total.seconds, 2), "read": total.read, "written": total.written}
            for name, total in self._totals.items()
        }

    def _count(self) -> None:
        now = _reading()
        last = self._last
        self.add(self._names[-1], now.seconds - last.seconds, now.read - last.read, now.written - last.written)
        self._last = now


def is_record(value: Any) -> bool:
    """Return whether a value that was read from a file is a record of phases."""
    return isinstance(value, dict) and all(
        isinstance(of_phase, dict) and all(isinstance(of_phase.get(key), int | float) for key in _KEYS)
        for of_phase in value.values()
    )


def rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of a table of phases below `HEAD`; the last row is the sum."""
    entries = [(name, [float(of_phase[key]) for key in _KEYS]) for name, of_phase in record.items()]
    sums = [sum(values[place] for _, values in entries) for place in range(len(_KEYS))]
    return [
        (name, f"{seconds:.1f} s", f"{seconds / (sums[0] or 1):.0%}", _mib(read), _mib(written))
        for name, (seconds, read, written) in [*entries, ("together", sums)]
    ]


def table(record: dict[str, Any]) -> str:
    """Return a table of phases as lines of aligned text."""
    lines = [HEAD, *rows(record)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def program_start() -> float:
    """Return the time of `time.monotonic` at which this process began; elsewhere than on Linux the present one."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds since the machine was started
        return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic()


def _reading() -> _Reading:
    seconds = time.monotonic()
    try:
        counts = dict(line.split(": ") for line in _IO.read_text(encoding="ascii").splitlines())
        return _Reading(seconds, int(counts["rchar"]), int(counts["wchar"]))
    except (OSError, ValueError, KeyError):
        return _Reading(seconds, 0, 0)


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else ""
