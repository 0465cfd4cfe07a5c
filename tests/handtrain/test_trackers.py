"""Trackers get the numbers of the log once, also where a run was resumed; stand-ins for trackio and wandb."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import UserError
from handtrain.run import device
from handtrain.training import loop

Jobs = Callable[..., Any]
RUN: dict[str, Any] = {"preset": "smoke", "unet_epochs": 4, "unet_batch": 2, "checkpoint_minutes": 0.0}


@pytest.fixture(params=["trackio", "wandb"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with the functions of a tracker, which keeps the arguments of their calls."""
    stand_in: Any = types.ModuleType(request.param)
    stand_in.calls = []
    for name in ("init", "log", "finish"):
        setattr(stand_in, name, lambda *args, _name=name, **more: stand_in.calls.append((_name, args, more)))
    monkeypatch.setitem(sys.modules, request.param, stand_in)
    monkeypatch.setattr(device, "find_spec", lambda name: name)
    return stand_in


def _logged(service: Any) -> list[tuple[int, float]]:
    numbers = [args[0] for name, args, _ in service.calls if name == "log"]
    return [(line["stage3/step"], line["stage3/loss"]) for line in numbers if "stage3/loss" in line]


def test_a_run_that_was_stopped_continues_its_entry(
    service: Any, train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = loop.tuning_step, []

    def killed(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "tuning_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", **RUN, track=service.__name__)
    run = train(tmp_path / "run", **RUN, track=service.__name__)
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if line["stage"] == 3 and "loss" in line]
    assert _logged(service) == losses and len(losses) == 4
    begun = [more for name, _, more in service.calls if name == "init"]
    assert [name for name, _, _ in service.calls].count("finish") == len(begun) == 2
    assert begun[0] == begun[1] and begun[0]["project"] == "hand1000" and begun[0]["resume"] == "allow"
    assert begun[0]["config"]["options"]["unet_epochs"] == 4


def test_a_tracker_that_is_not_installed_is_named(train: Jobs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--track wandb needs wandb: pip install wandb"):
        train(tmp_path / "run", **RUN, track="wandb")
