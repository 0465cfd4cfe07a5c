"""Programs that show the numbers of a run while it trains: TensorBoard's files, Trackio, Weights & Biases."""

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROJECT = "hand1000"


class TensorBoard:
    """Files in RUN/tensorboard. They are made again from the log when a run resumes: repeated steps appear once."""

    replays = True

    def __init__(self, run: Path, config: Mapping[str, Any], key: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))  # type: ignore[no-untyped-call]

    def log(self, stage: int, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step."""
        for name, value in numbers.items():
            self._writer.add_scalar(f"stage{stage}/{name}", value, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()  # type: ignore[no-untyped-call]


class _Service:
    """A tracker with the functions `init`, `log` and `finish`; a resumed run continues the same entry."""

    module: str
    replays = False

    def __init__(self, run: Path, config: Mapping[str, Any], key: str) -> None:
        self._api: Any = importlib.import_module(self.module)
        self._api.init(project=PROJECT, name=f"{run.name}-{key[:8]}", config=dict(config), resume="allow")

    def log(self, stage: int, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step. The stages count their own steps, so that the step is one of the numbers."""
        self._api.log({f"stage{stage}/{name}": value for name, value in {"step": step, **numbers}.items()})

    def close(self) -> None:
        """End the entry."""
        self._api.finish()


class Trackio(_Service):
    """Trackio, which stores on this machine unless it was configured otherwise."""

    module = "trackio"


class Wandb(_Service):
    """Weights & Biases, which sends the numbers to its server unless WANDB_MODE is offline."""

    module = "wandb"

    def __init__(self, run: Path, config: Mapping[str, Any], key: str) -> None:
        self._api = importlib.import_module(self.module)
        name = f"{run.name}-{key[:8]}"
        self._api.init(project=PROJECT, name=name, id=name, config=dict(config), resume="allow", dir=str(run))


TRACKERS: dict[str, type[TensorBoard] | type[_Service]] = {
    "tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb,
}  # fmt: skip
