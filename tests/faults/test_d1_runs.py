# ruff: noqa: F811
"""Damaged files of a run: the same command again ends in the same weights, or in one sentence."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import UserError
from handtrain import tensor_cache
from handtrain.reporting.runs import read_run
from handtrain.run.folder import Run
from tests.handtrain.conftest import base, dataset, datasets_cache, encoded, offline, one_thread, train  # noqa: F401

Train = Callable[..., Any]
slow = partial(pytest.param, marks=pytest.mark.slow)  # each trains for seconds
CHANGES = {"checkpoint_minutes": 0.0, "keep_checkpoints": True, "unet_epochs": 3, "unet_batch": 1, "embedding_batch": 1}


@pytest.fixture(scope="module")
def finished(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps, with checkpoints of the last two."""
    return Path(train(tmp_path_factory.mktemp("finished") / "run", **CHANGES).path)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _weights(run: Path) -> str:
    files = sorted((run / "model").glob("*/*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _interrupted(run: Path) -> None:
    """Make of a finished run one that was killed before its export."""
    record = json.loads((run / "run.json").read_text())
    for key in ("finished", "log_sha256", "sha256_of_this"):
        record.pop(key)
    (run / "run.json").write_text(json.dumps(record))
    shutil.rmtree(run / "model")


def _flip(file: Path, place: float = 0.7) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 4
    file.write_bytes(data)


def _halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model/unet/diffusion_pytorch_model.safetensors", _flip), ("model", shutil.rmtree),
        slow("model/vae/config.json", _halve), slow("model/hand1000.json", _halve),
        slow("model/tokenizer/tokenizer.json", Path.unlink),
        slow("model/model_index.json", lambda file: file.write_text("[]")),
    ],
)  # fmt: skip
def test_d1_a_damaged_model_of_a_finished_run_is_exported_again(
    train: Train, finished: Path, run: Path, name: str, damage: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    damage(run / name)
    train(run, **CHANGES)
    assert "the model of this run is damaged" in capsys.readouterr().err
    assert _weights(run) == _weights(finished)


@pytest.mark.parametrize(
    "data", [slow(b""), b"[]", slow(b'{"config": 3}'), slow(b"\xff\xfe{"), slow(b"[" * 100_000), None]
)
def test_d1_a_lost_run_json_is_written_again_and_the_model_is_kept(
    train: Train,
    finished: Path,
    run: Path,
    data: bytes | None,
) -> None:
    if data is None:
        (run / "run.json").unlink()
    else:
        (run / "run.json").write_bytes(data)
    train(run, **CHANGES)
    assert (_weights(run), "finished" in Run(run).record) == (_weights(finished), True)


def test_d1_a_changed_number_in_run_json_is_not_taken_for_another_run(
    train: Train,
    finished: Path,
    run: Path,
) -> None:
    text = (run / "run.json").read_text()
    assert '"lam": 0.7' in text
    (run / "run.json").write_text(text.replace('"lam": 0.7', '"lam": 0.6'))
    train(run, **CHANGES)
    assert _weights(run) == _weights(finished)


@pytest.mark.slow
def test_d1_without_run_json_nothing_of_another_configuration_is_used(
    train: Train,
    run: Path,
    tmp_path: Path,
) -> None:
    _interrupted(run)
    (run / "run.json").unlink()
    other = {**CHANGES, "lam": 0.4}
    train(run, **other)
    assert _weights(run) == _weights(train(tmp_path / "other", **other).path)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("checkpoints/*6/checkpoint.json", _halve), slow("checkpoints/*6/00000.safetensors", _flip),
        slow("checkpoints/*/checkpoint.json", lambda file: file.write_bytes(b"")), slow("checkpoints", shutil.rmtree),
        ("stage2/00001.safetensors", _flip), slow("stage2/00000.safetensors", Path.unlink),
        ("log.jsonl", _halve), slow("log.jsonl", lambda file: file.write_bytes(b"\xff\n[]\n" * 5)),
        slow("log.jsonl", Path.unlink), slow("stage1.json", lambda file: file.write_text("[")),
    ],
)  # fmt: skip
def test_d1_an_interrupted_run_with_damaged_pieces_ends_in_the_same_weights(
    train: Train,
    finished: Path,
    run: Path,
    pattern: str,
    damage: Callable[[Path], Any],
) -> None:
    _interrupted(run)
    for file in list(run.glob(pattern)):
        damage(file)
    train(run, **CHANGES)
    assert _weights(run) == _weights(finished)
    assert len((run / "log.jsonl").read_text().splitlines()) >= len((finished / "log.jsonl").read_text().splitlines())


def test_d1_verify_reads_the_pieces_of_a_finished_run_again(
    train: Train,
    finished: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(run, **CHANGES, verify=True)
    assert "5 of 5 pieces of the run are intact" in capsys.readouterr().err
    _flip(run / "stage2" / "00001.safetensors")
    _flip(next(run.glob("checkpoints/*6/00000.safetensors")))
    train(run, **CHANGES, verify=True)
    assert "3 of 5 pieces" in capsys.readouterr().err
    assert _weights(run) == _weights(finished)
    train(run, **CHANGES, verify=True)
    assert "5 of 5 pieces" in capsys.readouterr().err


def test_d1_a_report_of_a_damaged_run_is_one_sentence_or_leaves_lines_out(run: Path) -> None:
    with (run / "log.jsonl").open("a") as file:
        file.write('{"stage": "x", "loss": 1}\n{"stage": 3, "step": 1, "loss": "a"}\n[]\n{')
    assert len(read_run(run).log) == len(Run(run).log)
    assert all(isinstance(line["step"], int) for line in read_run(run).log)
    (run / "run.json").write_text('{"config": []}')
    with pytest.raises(UserError, match=r"run.json is damaged: run the same `handtrain train` again"):
        read_run(run)


@pytest.mark.parametrize("change", [{"about": ["other"]}, {"about_sha256": "0"}, {"sha256": 3}, {"more": 1}])
def test_d1_a_changed_description_of_a_stored_tensor_counts_as_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save

    file = tmp_path / "tensors.safetensors"
    tensor_cache.write(file, {"a": torch.ones(2)}, {"step": 3})
    assert tensor_cache.read(file) is not None
    record = {"about": {"step": 3}, "sha256": tensor_cache.digest({"a": torch.ones(2)}), "about_sha256": "", **change}
    file.write_bytes(save({"a": torch.ones(2)}, metadata={"hand1000": json.dumps(record)}))
    assert tensor_cache.read(file) is None


@pytest.mark.parametrize("data", [b"", b"\x10", b"\x00" * 100, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_d1_an_unreadable_cache_file_is_absent(tmp_path: Path, data: bytes) -> None:
    cache = tensor_cache.TensorCache(tmp_path)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "abc.safetensors").write_bytes(data)
    assert cache.get("abc") is None
