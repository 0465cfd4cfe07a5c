import os
import threading
from pathlib import Path

import pytest
import torch

from handtrain.run import checkpoint


def _save(folder: Path, step: int) -> None:
    checkpoint.save(folder, f"stage3-{step:08d}", [("model/w", torch.full((3,), float(step)))], {"step": step})


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        _save(tmp_path, step)
    assert _names(tmp_path) == ["stage3-00000002", "stage3-00000010"]
    newest, damaged = checkpoint.newest(tmp_path)
    assert newest is not None
    assert (newest.state, damaged) == ({"step": 10}, [])
    assert dict(newest.tensors())["model/w"].tolist() == [10, 10, 10]


@pytest.mark.parametrize("damage", ["bit", "missing", "json"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, damage: str) -> None:
    _save(tmp_path, 1)
    _save(tmp_path, 2)
    piece, record = tmp_path / "stage3-00000002" / "00000.safetensors", tmp_path / "stage3-00000002" / "checkpoint.json"
    if damage == "bit":
        data = bytearray(piece.read_bytes())
        data[-1] ^= 1
        piece.write_bytes(data)
    elif damage == "missing":
        piece.unlink()
    else:
        record.write_text("{")
    newest, damaged = checkpoint.newest(tmp_path)
    assert newest is not None
    assert (newest.state, damaged) == ({"step": 1}, ["stage3-00000002"])
    _save(tmp_path, 2)  # the run comes to this step again
    assert checkpoint.newest(tmp_path)[1] == []


def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 1)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            _save(tmp_path, 2)
    newest, damaged = checkpoint.newest(tmp_path)
    assert newest is not None
    assert (newest.state, damaged) == ({"step": 1}, [])
    assert _names(tmp_path) == ["stage3-00000001"]


def test_a_model_and_its_optimiser_come_back_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 200)  # several pieces

    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1))
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    def step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, number: int) -> None:
        optimiser.zero_grad()
        model(torch.full((2, 5), float(number))).square().sum().backward()
        optimiser.step()

    model, optimiser = make()
    for number in range(3):
        step(model, optimiser, number)
    checkpoint.save(tmp_path, "a", checkpoint.training_state(model, optimiser), {})
    saved, _ = checkpoint.newest(tmp_path)
    assert saved is not None
    assert len(saved.pieces) > 3
    again, its_optimiser = make()
    checkpoint.restore(saved, again, its_optimiser)
    for number in range(3, 6):
        step(model, optimiser, number)
        step(again, its_optimiser, number)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_checkpoint_in_a_thread_holds_the_values_at_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, begin, real = torch.ones(4, 3), threading.Event(), checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *arguments: begin.wait(60) and real(*arguments))
    monkeypatch.setattr(checkpoint, "free_memory", lambda: 10**12)
    writer = checkpoint.Writer()
    assert writer.save(tmp_path, "a", [("model/w", weight)], {"step": 1}) == 48
    weight.fill_(2)  # as the next step does
    begin.set()
    writer.wait()
    real(tmp_path, "b", [("model/w", torch.ones(4, 3))], {"step": 1})
    assert [file.read_bytes() for file in sorted((tmp_path / "a").iterdir())] == [
        file.read_bytes() for file in sorted((tmp_path / "b").iterdir())
    ]
    writer.close()


def test_without_memory_for_a_copy_the_training_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "free_memory", lambda: 47)
    writer = checkpoint.Writer()
    monkeypatch.setattr(writer._thread, "submit", lambda *_: pytest.fail("a thread was used"))
    for name in ("a", "b"):
        writer.save(tmp_path, name, [("model/w", torch.ones(4, 3))], {"step": 1})
        assert checkpoint.read(tmp_path / name)
    assert capsys.readouterr().err.count("training waits while checkpoints are written") == 1


def test_an_error_in_the_thread_reaches_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    monkeypatch.setattr(checkpoint, "free_memory", lambda: 10**12)
    writer = checkpoint.Writer()
    writer.save(tmp_path, "a", [("model/w", torch.ones(4, 3))], {"step": 1})
    writer._thread.shutdown()  # the writing has ended
    with pytest.raises(OSError, match="No space left"):
        writer.check()
    writer.check()
    assert not list(tmp_path.iterdir())
