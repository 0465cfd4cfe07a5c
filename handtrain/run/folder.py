"""The run folder: one run, one process at a time; run.json, and a log that a resumed run continues without a gap."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from handdata.errors import UserError


@dataclass
class RunFolder:
    """An open run folder. `config` decides the weights; a run with another one needs another folder."""

    path: Path
    record: dict[str, Any]  # run.json
    silent: bool = False  # another process writes; this one only works
    lines: int = 0  # in log.jsonl
    _file: TextIO | None = None
    _board: Any = None  # TensorBoard's SummaryWriter
    _clock: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        """Whether this run has come to its end."""
        return "finished" in self.record

    def start_log(self, lines: int, tensorboard: bool) -> None:
        """Keep the first `lines` lines of the log, what the run continues from, and open it for more.

        TensorBoard's files are made anew from the log: its own would show a repeated stretch twice.
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
        """Add the line of a training step, with its speed in images/s: by default that since the line before.

        `ideal` is the seconds that an image would take at the peak of all GPUs: the line then has an `mfu`.
        """
        now = time.monotonic()
        speed = len(image_ids) / max(now - self._clock, 1e-9) if speed is None else speed
        if ideal is not None:
            more["mfu"] = round(speed * ideal, 4)
        self._clock = now
        images: dict[str, Any] = {"image_id": image_ids[0]} if len(image_ids) == 1 else {"image_ids": image_ids}
        self.log(stage=stage, step=step, **images, loss=loss, lr=lr, images_per_s=round(speed, 3), **more)

    def sync(self) -> None:
        """Bring the log to the disk, before a checkpoint counts on its lines."""
        if self.silent:
            return
        assert self._file is not None, "start_log comes first"
        os.fsync(self._file.fileno())

    def update(self, **changes: Any) -> None:
        """Change keys of run.json."""
        self.record.update(changes)
        if not self.silent:
            write_text(self.path / "run.json", json.dumps(self.record, indent=1) + "\n")

    def close(self) -> None:
        """Close the log."""
        for one in (self._file, self._board):
            if one is not None:
                one.close()

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
    """Open a run folder, new or to be continued, and keep other processes out of it.

    `absent` holds what options mean that the program which began the run did not know.
    `session` says with what this process works (versions, device, threads); run.json keeps it of every process.
    Raises `UserError` if the folder holds another run, or one that another process is working on.
    """
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--out {path}: another process is training in this folder; wait for it, or choose another"
            ) from None
        config = json.loads(json.dumps(config))
        file = path / "run.json"
        record: dict[str, Any] = {"config": config, "sessions": []}
        if file.exists():
            record = json.loads(file.read_text(encoding="utf-8"))
        before = record["config"]
        if absent and "options" in before:
            before = {**before, "options": {**absent, **before["options"]}}
        difference = _first_difference(before, config)
        if difference:
            raise UserError(
                f"--out {path} holds a run with another configuration ({difference}): "
                "give the same options to continue it, or choose another folder"
            )
        run = RunFolder(path, record)
        if not run.finished:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            run.update(sessions=[*record["sessions"], {"started": now, **session}])
        try:
            yield run
        finally:
            run.close()


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or absent."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _first_difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> str | None:
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found = _first_difference(before, now, f"{where}{key}.")
            if found:
                return found
        elif before != now:
            return f"{where}{key} was {before}, is {now}"
    return None


def _board(folder: Path) -> Any:
    import shutil

    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder))
