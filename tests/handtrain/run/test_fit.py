"""--fit: what is chosen, in which order, and what is left alone. The budgets are between counted peaks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from handdata.errors import UserError
from handdata.files import write_json
from handtrain.cli.flags import Train
from handtrain.model.base import open_base
from handtrain.presets import RunOptions, TrainOptions
from handtrain.run.fit import chosen, fitted, resumed, room_of
from handtrain.run.footprint import CONTEXT, WORKSPACE, footprint
from handtrain.run.memory import Memory
from handtrain.seals import sealed

CPU = torch.device("cpu")
LARGE = replace(TrainOptions(), unet_batch=4096, embedding_steps=0)  # the activations of a tiny model in MiB


@pytest.fixture(scope="module")
def tiny(base: Path) -> Memory:
    return Memory(open_base(base))


def peak(tiny: Memory, running: RunOptions) -> int:
    return footprint(tiny, LARGE, running).peak + CONTEXT


def test_sizes_are_read_and_others_refused() -> None:
    assert room_of("24GiB", CPU) == room_of("24", CPU) == 24 * 2**30
    assert room_of("7.5 GiB", CPU) == 7.5 * 2**30
    for wrong in ("0", "24GB", "-1", "much", "1e3"):
        with pytest.raises(UserError, match="--fit"):
            room_of(wrong, CPU)
    with pytest.raises(UserError, match="--fit auto asks a GPU"):
        room_of("auto", CPU)


def test_the_largest_parts_of_a_batch_that_fit_come_first_then_checkpointing(tiny: Memory) -> None:
    whole, half = peak(tiny, RunOptions()), peak(tiny, RunOptions(micro_batch=2048))
    assert half < whole
    as_it_is, halved = fitted(tiny, LARGE, RunOptions(), whole), fitted(tiny, LARGE, RunOptions(), whole - 1)
    assert as_it_is and as_it_is.changes == {}
    assert halved and halved.changes == {"micro_batch": 2048} and halved.footprint.peak + CONTEXT == half
    assert halved.options == LARGE
    kept = fitted(tiny, LARGE, RunOptions(), whole - 1, given=("micro_batch",))
    assert kept and kept.changes == {"gradient_checkpointing": True}


def test_what_was_given_stays_and_the_error_says_what_would_fit(tiny: Memory) -> None:
    room = f"{(peak(tiny, RunOptions()) - 2**22) / 2**30:.3f}GiB"
    given = ("micro_batch", "gradient_checkpointing", "optimizer", "lora_rank")
    with pytest.raises(UserError, match=r"it would fit with --micro-batch 2048 \(changes rounding alone\)"):
        chosen(tiny, LARGE, RunOptions(), room, CPU, given, 1)
    with pytest.raises(UserError, match="nothing fits: use a larger card"):
        chosen(tiny, LARGE, RunOptions(), "0.01GiB", CPU, (), 1)


def test_a_captured_step_keeps_its_memory_and_is_not_recomputed(tiny: Memory) -> None:
    without, captured = (footprint(tiny, LARGE, RunOptions(graphs=graphs)) for graphs in ("off", "on"))
    step = without.peaks["Stage III"] - without.weights - without.gradients - without.moments - WORKSPACE
    assert step > 0
    assert captured.peaks == {**without.peaks, "samples": without.peaks["samples"] + step}
    room = captured.peak + CONTEXT
    assert fitted(tiny, LARGE, RunOptions(graphs="on"), room)
    smaller = fitted(tiny, LARGE, RunOptions(graphs="on"), room - 1, given=("micro_batch",))
    assert not (smaller and smaller.running.gradient_checkpointing)


def test_the_command_line_names_what_was_given() -> None:
    assert Train.defaults(["--preset", "fast", "--micro-batch=2", "--no-gradient-checkpointing"]).given == (
        "preset", "micro_batch", "gradient_checkpointing"
    )  # fmt: skip


def test_a_run_records_its_choice_and_keeps_it(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, fit="2GiB")
    (session,) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert session["fit"]["requested"] == "2GiB" and session["fit"]["changes"] == {}
    monkeypatch.setattr("handtrain.run.fit.chosen", lambda *_: pytest.fail("it is chosen again"))
    train(tmp_path, fit="2GiB")


def test_a_resumed_run_takes_the_recorded_choice(tiny: Memory, tmp_path: Path) -> None:
    entry = {"requested": "2GiB", "changes": {"micro_batch": 3, "lora_rank": 4}, "peak_gib": 1.0}
    write_json(tmp_path / "run.json", sealed({"config": {}, "sessions": [{"fit": entry}, {}]}))
    same = resumed(tiny, LARGE, RunOptions(), "2GiB", CPU, (), 1, tmp_path)
    assert (same.running.micro_batch, same.options.lora_rank) == (3, 4) and same.changes == entry["changes"]
    other = resumed(tiny, LARGE, RunOptions(), "80GiB", CPU, (), 1, tmp_path)
    assert (other.running.micro_batch, other.options.lora_rank) == (0, 4)
