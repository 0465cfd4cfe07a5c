"""The run folder: run.json, a log that a resumed run continues without a gap, and a lock against other processes."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from handdata.errors import UserError
from handdata.files import locked, remove_partial, write_json, write_text
from handdata.readers import read_json, read_jsonl


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
        """The lines of log.jsonl: a step, a validation loss or an evaluation each."""
        return read_jsonl(self.path / "log.jsonl")


@dataclass
class RunFolder:
    """An open run folder. `config` determines the weights; a run with another one needs another folder."""

    path: Path
    record: dict[str, Any]  # run.json
    silent: bool = False  # write nothing: the first process does
    lines: int = 0  # number of lines in log.jsonl
    _file: TextIO | None = None
    _board: Any = None  # TensorBoard's SummaryWriter
    _clock: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return "finished" in self.record

    def start_log(self, lines: int, tensorboard: bool) -> None:
        """Keep the first `lines` lines of the log, those of finished work, and open it for more.

        TensorBoard's files are rebuilt from the log: in its own, repeated steps would appear twice.
        """
        if self.silent:
            return
        path = self.path / "log.jsonl"
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines] if path.exists() else []
        write_text(path, "".join(kept))
        self.lines = len(kept)
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            self._board = _board(self.path / "tensorboard")
            for line in kept:
                self._show(json.loads(line))

    def log(self, **record: Any) -> None:
        """Add a line to the log, and its numbers to TensorBoard."""
        if self.silent:
            return
        assert self._file is not None, "start_log comes first"
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self.lines += 1
        self._show(record)

    def log_step(
        self, stage: int, step: int, image_ids: list[str], loss: float, lr: float, speed: float | None = None,
        ideal: float | None = None, **more: Any,
    ) -> None:  # fmt: skip
        """Add the line of a training step, with its speed in images/s: by default that since the previous line.

        `ideal` is the seconds per image at the peak of all GPUs: with it the line has an `mfu`.
        """
        now = time.monotonic()
        speed = len(image_ids) / max(now - self._clock, 1e-9) if speed is None else speed
        if ideal is not None:
            more["mfu"] = round(speed * ideal, 4)
        self._clock = now
        images: dict[str, Any] = {"image_id": image_ids[0]} if len(image_ids) == 1 else {"image_ids": image_ids}
        self.log(stage=stage, step=step, **images, loss=loss, lr=lr, images_per_s=round(speed, 3), **more)

    def sync(self) -> None:
        """Flush the log to the disk, before a checkpoint records its number of lines."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def update(self, **changes: Any) -> None:
        """Change keys of run.json."""
        self.record.update(changes)
        self.write_json("run.json", self.record)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file to the folder, whole or absent."""
        if not self.silent:
            write_json(self.path / name, value)

    def close(self) -> None:
        """Close the log."""
        for writer in (self._file, self._board):
            if writer is not None:
                writer.close()

    def _show(self, record: dict[str, Any]) -> None:
        if self._board is None or "stage" not in record:
            return
        for name, value in record.items():
            if isinstance(value, float):
                self._board.add_scalar(f"stage{record['stage']}/{name}", value, record["step"])


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
        record: dict[str, Any] = read_json(path / "run.json") or {"config": config, "sessions": []}
        before = record["config"]
        if absent and "options" in before:
            before = {**before, "options": {**absent, **before["options"]}}
        difference = _first_difference(before, config)
        if difference:
            raise UserError(
                f"--out {path} contains a run with another configuration ({difference}): "
                "give the same options to resume it, or choose another folder"
            )
        run = RunFolder(path, record)
        if not run.finished:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            run.update(sessions=[*record["sessions"], {"started": now, **session}])
        try:
            yield run
        finally:
            run.close()


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


def _board(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder))
