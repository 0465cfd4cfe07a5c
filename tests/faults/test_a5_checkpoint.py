import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handtrain.run import checkpoint
from handtrain.run.checkpoint import newest, save


def _save(folder: Path, step: int, **more: Any) -> Path:
    name = f"stage3-{step:08d}"
    save(folder, name, [("model/w", torch.full((3,), float(step)))], {"part": "unet", "step": step, **more})
    return folder / name / "checkpoint.json"


def _change(file: Path, change: Any) -> None:
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["state"].update(part="fusion"),
        lambda record: record["state"].update(log_lines=3),
        lambda record: record["state"].update(images=7),
        lambda record: record["state"].pop("step"),
        lambda record: record["sha256"].clear(),
        lambda record: record.update(more=1),
        lambda record: record.update(state=[]),
    ],
)
def test_a5_a_changed_description_is_not_resumed_from(tmp_path: Path, change: Any) -> None:
    _save(tmp_path, 1)
    _change(_save(tmp_path, 2), change)
    found, damaged = newest(tmp_path)
    assert found is not None
    assert (found.state["step"], damaged) == (1, ["stage3-00000002"])


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe{", b"[" * 100_000, b'{"state": 1'])
def test_a5_an_unreadable_description_is_passed_over(tmp_path: Path, data: bytes) -> None:
    _save(tmp_path, 1).write_bytes(data)
    assert newest(tmp_path) == (None, ["stage3-00000001"])


def test_a5_a_description_of_an_older_version_is_still_used(tmp_path: Path) -> None:
    _change(_save(tmp_path, 4), lambda record: record.pop("sha256_of_this"))
    found, damaged = newest(tmp_path, "key of the run")
    assert found is not None
    assert damaged == []


def test_a5_a_checkpoint_of_another_run_is_passed_over(tmp_path: Path) -> None:
    _save(tmp_path, 1, run="ours")
    _save(tmp_path, 2, run="theirs")
    found, others = newest(tmp_path, "ours")
    assert found is not None
    assert (found.state["step"], others) == (1, ["stage3-00000002"])


def test_a5_a_checkpoint_that_was_set_aside_is_not_read_again(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    for _ in range(2):
        checkpoint.set_aside(_save(tmp_path, 2).parent)
    found, damaged = newest(tmp_path)
    assert found is not None
    assert (found.state["step"], damaged) == (1, [])
