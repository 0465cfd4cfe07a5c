"""The run folder: run.json, a log that a resumed run continues without a gap, and a lock against other processes."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from handdata.errors import UserError
from handdata.files import locked, remove_partial, sha256_of, write_json, write_jsonl
from handdata.readers import read_json, read_jsonl
from handtrain.model.about import model_fault, trained_with
from handtrain.seals import digest, intact, sealed
from handtrain.trackers import TRACKERS

LOST = {"lost": True}  # in the log, in place of a line that was damaged
_NUMBERS = ("loss", "lr", "images_per_s", "peak_mib", "mfu", "validation_loss", "board_step")


@dataclass(frozen=True)
class Run:
    """A run folder to read from: `run.json`, the log and the trained model."""

    path: Path

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.path / "model"

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json: configuration, sessions and, once it is finished, the time."""
        record: dict[str, Any] = read_json(self.path / "run.json") or {}
        return record

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl: a step, a validation loss or an evaluation each. Damaged lines are left out."""
        return [line for line in read_jsonl(self.path / "log.jsonl") if is_line(line)]


def is_line(line: dict[str, Any]) -> bool:
    """Return whether a line of a log has values of the right types."""
    numbers = [line[name] for name in _NUMBERS if name in line]
    numbers += [value for value in _entries(line.get("evaluation")) if value is not None]
    whole = all(isinstance(value, int | float) and not abs(value) > 1e300 for value in numbers)
    kinds = (("evaluation", dict), ("image_ids", list))
    return (
        whole
        and all(type(line.get(name)) is int for name in ("stage", "step"))
        and all(isinstance(line[name], kind) for name, kind in kinds if name in line)
    )


def _entries(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


@dataclass
class RunFolder:
    """An open run folder. `config` determines the weights; a run with another one needs another folder."""

    path: Path
    record: dict[str, Any]  # run.json
    known: bool = True  # whether run.json was there and intact; without it only files with the run's key are used
    silent: bool = False  # write nothing: the first process does
    lines: int = 0  # number of lines in log.jsonl
    _file: TextIO | None = None
    _trackers: list[Any] = field(default_factory=list)
    _clock: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return "finished" in self.record

    @property
    def key(self) -> str:
        """A hash of the configuration, which checkpoints and shards of the run contain."""
        return digest(self.record["config"])

    def owns(self, about: Any) -> bool:
        """Return whether the description of a stored piece is that of this run. Older versions stored no key."""
        key = about.get("run") if isinstance(about, dict) else None
        return bool(key == self.key or (key is None and self.known))

    def start_log(self, lines: int, trackers: Sequence[str]) -> None:
        """Keep the first `lines` lines of the log, those of finished work, and open it and the trackers for more.

        A damaged line is replaced, so that the numbers of lines that checkpoints record stay right.
        """
        if self.silent:
            return
        path = self.path / "log.jsonl"
        self.close()
        found = _lines(path)[:lines]
        kept = [line or LOST for line in [*found, *[None] * (lines - len(found))]]
        lost = kept.count(LOST)
        if lost:
            print(f"handtrain: {path} is damaged: {lost} lines of it are lost, the training is not", file=sys.stderr)
        write_jsonl(path, kept)
        self.lines = len(kept)
        self._file = path.open("a", encoding="utf-8")
        self._trackers = [TRACKERS[name](self.path, self.record["config"], self.key) for name in trackers]
        for line in kept:
            self._show(line, [tracker for tracker in self._trackers if tracker.replays])

    def log(self, **record: Any) -> None:
        """Add a line to the log, and its numbers to the trackers."""
        if self.silent:
            return
        assert self._file is not None, "start_log comes first"
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self.lines += 1
        self._show(record, self._trackers)

    def log_step(
        self, stage: int, step: int, image_ids: list[str], loss: float, lr: float, speed: float | None = None,
        ideal: float | None = None, **more: Any,
    ) -> None:  # fmt: skip
        """Add the line of a training step, with its speed in images/s.

        By default the speed is that since the previous line, or since `restart_clock`.
        `ideal` is the seconds per image at the peak of all GPUs: with it the line has an `mfu`.
        """
        now = time.monotonic()
        speed = len(image_ids) / max(now - self._clock, 1e-9) if speed is None else speed
        if ideal is not None:
            more["mfu"] = round(speed * ideal, 4)
        self._clock = now
        images: dict[str, Any] = {"image_id": image_ids[0]} if len(image_ids) == 1 else {"image_ids": image_ids}
        self.log(stage=stage, step=step, **images, loss=loss, lr=lr, images_per_s=round(speed, 3), **more)

    def restart_clock(self) -> None:
        """Begin to time the next step: what came after the last line is not part of it."""
        self._clock = time.monotonic()

    def sync(self) -> None:
        """Flush the log to the disk, before a checkpoint records its number of lines."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def update(self, **changes: Any) -> None:
        """Change keys of run.json."""
        self.record = sealed({**self.record, **changes})
        self.write_json("run.json", self.record)

    def finish(self, phases: dict[str, Any]) -> None:
        """Record that the run is finished, with the time, the hash of its log and the phases of this process."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.log(stage=0, step=0, phases=phases)
        self.sync()
        log = self.path / "log.jsonl"
        *earlier, this = self.record["sessions"]
        self.update(finished=now, log_sha256=sha256_of(log), sessions=[*earlier, {**this, "phases": phases}])

    def reopen(self) -> None:
        """Take back that the run is finished."""
        self.record = {name: value for name, value in self.record.items() if name not in ("finished", "log_sha256")}
        self.update()

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file to the folder, whole or absent."""
        if not self.silent:
            write_json(self.path / name, value)

    def close(self) -> None:
        """Close the log."""
        for writer in (self._file, *self._trackers):
            if writer is not None:
                writer.close()
        self._file, self._trackers = None, []

    def _show(self, record: dict[str, Any], trackers: Sequence[Any]) -> None:
        """Pass the numbers of a line to trackers."""
        numbers = {name: value for name, value in record.items() if isinstance(value, float)}
        if "step" in record:
            for tracker in trackers:
                tracker.log(record["stage"], record["step"], numbers)


@contextmanager
def open_run(
    path: Path, config: dict[str, Any], session: dict[str, Any], absent: dict[str, Any] | None = None
) -> Iterator[RunFolder]:
    """Open a run folder, new or to be resumed, and lock out other processes. Incomplete files are removed.

    `absent` maps options that older versions did not have to the values used then. `session` describes this process
    (versions, device, threads); run.json keeps one entry per process.
    Raises `UserError` if the folder contains another run, or one that another process is working on.
    """
    busy = f"--out {path}: another process is training in this folder; wait for it, or choose another"
    with locked(path / ".lock", busy):
        for folder in (path, *(child for child in path.iterdir() if child.is_dir())):
            remove_partial(folder)
        config = json.loads(json.dumps(config))
        found = _record(path / "run.json")
        record = found or {"config": config, "sessions": []}
        before = _completed(record["config"], config, absent or {})
        difference = _first_difference(before, config)
        if difference:
            raise UserError(
                f"--out {path} contains a run with another configuration ({difference}): "
                "give the same options to resume it, or choose another folder"
            )
        run = RunFolder(path, record, known=found is not None)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        _settle(run, now)
        if not run.finished:
            run.update(sessions=[*run.record["sessions"], {"started": now, **session}])
        try:
            yield run
        finally:
            run.close()


def _record(path: Path) -> dict[str, Any] | None:
    """Return run.json, None if it is missing or damaged."""
    record: dict[str, Any] | None = read_json(path)
    whole = record is not None and intact(record)
    if record is None or not whole or not isinstance(record.get("config"), dict):
        if path.exists():
            print(f"handtrain: {path} is damaged and is written again", file=sys.stderr)
        return None
    return record if isinstance(record.get("sessions"), list) else {**record, "sessions": []}


def _completed(before: dict[str, Any], now: dict[str, Any], absent: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with the entries that older versions did not have."""
    completed = dict(before)
    if isinstance(before.get("options"), dict):
        completed["options"] = {**absent, **before["options"]}
    if isinstance(before.get("base"), dict) and "rest" not in before["base"] and "rest" in now.get("base", {}):
        completed["base"] = {**before["base"], "rest": now["base"]["rest"]}
    return completed


def _settle(run: RunFolder, now: str) -> None:
    """Compare the state `finished` with the model: a damaged model is exported again, a lost state is restored."""
    if run.finished:
        fault = model_fault(run.path / "model")
        if fault:
            print(f"handtrain: the model of this run is damaged ({fault}) and is made again", file=sys.stderr)
            run.reopen()
    elif not run.known and trained_with(run.path / "model", run.record["config"]):
        run.update(finished=now)


def _lines(path: Path) -> list[dict[str, Any] | None]:
    """Return the lines of a log, None for a damaged one; an incomplete last line is left out."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    values: list[dict[str, Any] | None] = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        values.append(value if isinstance(value, dict) and (is_line(value) or value == LOST) else None)
    return values


def _first_difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> str | None:
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            difference = _first_difference(before, now, f"{where}{key}.")
            if difference:
                return difference
        elif before != now:
            return f"{where}{key} was {before}, is {now}"
    return None
