import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handdata.errors import Unfinished, UserError
from handdata.machine import Terminated, choose_device
from handtrain.presets import RunOptions, options_of
from handtrain.training import loop
from handtrain.training.stage2 import stage2
from handtrain.training.train import plan_run

Jobs = Callable[..., Any]


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_run_folder_has_its_files_and_no_other_formats(
    train: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    watched = {"tensorboard": True, "sample_every": 1, "sample_steps": 1, "validate_every": 1, "keep_checkpoints": True}
    result = train(run, **watched)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (result.path, result.model) == (run, run / "model")
    record, log = result.record, result.log
    assert record["config"]["options"]["lam"] == 0.7
    assert "finished" in record
    steps = [(line["stage"], line["step"]) for line in log if "loss" in line]
    assert steps == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert all(isinstance(line["loss"], float) and line["images_per_s"] > 0 for line in log if "loss" in line)
    assert [line["step"] for line in log if "validation_loss" in line] == [0, 1, 2]
    assert [path.name for path in sorted((run / "samples").iterdir())] == [f"{step:08d}.png" for step in range(3)]
    assert list((run / "tensorboard").iterdir())
    assert len(json.loads((run / "stage1.json").read_text())["values"]) == 63
    phases = record["sessions"][-1]["phases"]
    assert log[-1]["phases"] == phases
    assert {"start", "hash", "load", "Stage I", "encode", "fusion", "Stage II", "Stage III"} <= phases.keys()
    assert {"samples", "validation", "checkpoints", "export"} <= phases.keys()
    assert phases["checkpoints"]["written"] > 0 < phases["export"]["written"]
    assert "phases of this run" in captured.err
    assert not list(run.rglob("*.partial"))
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_a_finished_run_is_left_unchanged(train: Jobs, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (model / "hand1000.json").stat().st_mtime_ns
    train(model.parent)
    assert "finished" in capsys.readouterr().err
    assert (model / "hand1000.json").stat().st_mtime_ns == before


def test_other_options_need_another_folder(train: Jobs, model: Path) -> None:
    with pytest.raises(UserError, match=r"options.lam was 0.7, is 0.5"):
        train(model.parent, lam=0.5)


def test_two_processes_cannot_train_in_one_folder(train: Jobs, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training"):
            train(tmp_path)


def test_the_same_run_gives_the_same_weights(train: Jobs, model: Path, base: Path, tmp_path: Path) -> None:
    train(tmp_path / "again", gradient_checkpointing=True)  # which changes nothing
    first, second = _weights(model), _weights(tmp_path / "again" / "model")
    assert all(torch.equal(first[name], second[name]) for name in first)
    before = _weights(base)
    assert all(not torch.equal(first[name], before[name]) for name in first)


def test_lam_seed_and_every_option_of_plus_change_the_weights(train: Jobs, model: Path, tmp_path: Path) -> None:
    paper = _weights(model)["conv_in.weight"]
    switches = [
        {"lam": 0.3}, {"seed": 1}, {"crop": "hand"}, {"feature": "normalised"}, {"hand_weight": 4.0},
        {"fusion": "token", "fusion_lr": 0.1},
    ]  # fmt: skip
    for number, switch in enumerate(switches):
        train(tmp_path / str(number), **switch)
        assert not torch.equal(_weights(tmp_path / str(number) / "model")["conv_in.weight"], paper), switch


def test_a_loss_that_is_not_a_number_names_step_and_image(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.tuning_step

    def broken(*arguments: Any) -> torch.Tensor:
        losses = real(*arguments)
        losses[1] = float("nan")
        return losses

    monkeypatch.setattr(loop, "tuning_step", broken)
    with pytest.raises(Unfinished, match=r"stage 3, step 0: the loss of image train-00\d is nan"):
        train(tmp_path)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_names_the_remedy(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(loop, "tuning_step", full)
        with pytest.raises(Unfinished, match="--micro-batch 1 and --gradient-checkpointing"):
            train(tmp_path)
    train(tmp_path, micro_batch=1, gradient_checkpointing=True)  # the remedy is accepted


def test_too_small_a_disk_is_refused_before_training(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"--out .* the run writes up to .* are free"):
        train(tmp_path)


def test_a_disk_that_fills_up_is_one_sentence_and_the_run_continues(
    train: Jobs, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from handdata.cli import program as commands
    from handtrain.run import checkpoint

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "checkpoints"))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_bytes", full)
        patch.setattr(commands, "_run", lambda *_: train(tmp_path, checkpoint_minutes=0.0))
        assert commands.main("handtrain", "", {}, ["train"]) == 1
    assert "no space is left for" in capsys.readouterr().err
    train(tmp_path)
    assert all(torch.equal(weight, _weights(model)[name]) for name, weight in _weights(tmp_path / "model").items())


def test_a_signal_saves_a_checkpoint_and_the_run_continues(
    train: Jobs, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.tuning_step

    def signalled(*arguments: Any) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "tuning_step", signalled)
        with pytest.raises(Unfinished, match="stopped by a signal after stage3-00000001"):
            train(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["stage3-00000001"]
    train(tmp_path)
    assert all(torch.equal(weight, _weights(model)[name]) for name, weight in _weights(tmp_path / "model").items())
    assert [line["step"] for line in _log(tmp_path) if line["stage"] == 3] == [0, 1]


@pytest.mark.slow
def test_a_plan_counts_the_steps(base: Path, dataset: Path) -> None:
    text = plan_run(dataset, gesture="call", base=base, device="cpu")
    assert "5 images of call, 5 with landmarks, at 16 px" in text
    assert "50 embedding steps" in text
    assert "100 UNet steps" in text
    assert "50 UNet steps" in plan_run(dataset, gesture="call", base=base, device="cpu", unet_epochs=10)


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    base: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from handtrain.cli.flags import Train

    out = tmp_path / "run"
    paper, running = options_of("paper"), RunOptions()
    assert Train(str(dataset), ("call",), str(base), out, "paper", paper, running, "cpu", dry_run=True)() == 0
    assert "100 UNet steps" in capsys.readouterr().out
    assert not out.exists()


def test_the_command_prints_the_model_folder(
    base: Path, dataset: Path, model: Path, encoded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from handtrain.cli.flags import Train

    smoke, running = options_of("smoke"), RunOptions()
    train = Train(
        str(dataset), ("call",), str(base), model.parent, "smoke", smoke, running, device="cpu", cache=encoded
    )
    assert train() == 0
    assert capsys.readouterr().out.strip() == str(model)


def test_a_dataset_without_validation_is_trained_with_a_warning(
    train: Jobs, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = shutil.copytree(dataset, tmp_path / "dataset")
    card = (copy / "README.md").read_text().splitlines(keepends=True)
    (copy / "README.md").write_text("".join(line for line in card if "validation" not in line))
    train(tmp_path / "run", dataset=copy, validate_every=1)
    assert "no validation split" in capsys.readouterr().err


def test_several_processes_are_refused_in_one_sentence(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start a single process"):
        train(tmp_path, "reference")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lam": 1.5}, "--lam 1.5"),
        ({"unet_batch": 0}, "--unet-batch 0"),
        ({"unet_lr": 0.0}, "--unet-lr 0.0"),
        ({"resolution": 10}, "--resolution 10 .* a multiple of 4"),
        ({"order": "images", "unet_batch": 1, "embedding_batch": 1, "fusion": "token"}, "--order images"),
        ({"gesture": "palm"}, "no configuration 'palm'"),
        ({"lamb": 0.5}, "unknown option 'lamb': did you mean 'lam'"),
        ({"crop": "left"}, "crop='left': choose one of center, hand"),
    ],
)
def test_a_wrong_option_is_one_sentence(train: Jobs, tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        train(tmp_path, **change)


def test_a_base_of_another_kind_is_one_sentence(train: Jobs, base: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(base, tmp_path / "base")
    wrong = {"out": tmp_path / "run", "base": copy}
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="is a FluxPipeline: handtrain trains a StableDiffusionPipeline"):
        train(**wrong)
    (copy / "model_index.json").write_text(json.dumps(index))
    next((copy / "unet").glob("*.safetensors")).rename(copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"unet: it has no diffusion_pytorch_model.safetensors: pickled weights"):
        train(**wrong)
    (copy / "model_index.json").unlink()
    with pytest.raises(UserError, match="is not a diffusers model"):
        train(**wrong)


def test_an_absent_device_is_one_sentence(train: Jobs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--device nonsense cannot be used"):
        train(tmp_path, device="nonsense")


def test_a_gpu_that_torch_cannot_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/dev/nvidia0")
    with pytest.raises(UserError, match="a GPU that torch cannot use"):
        choose_device("auto")


def test_every_image_of_reference_is_trained_once_and_in_order(train: Jobs, tmp_path: Path) -> None:
    train(tmp_path, "reference", embedding_steps=1, unet_epochs=1)
    assert [(line["image_id"], line["stage"]) for line in _log(tmp_path) if "loss" in line] == [
        (f"train-{number:03d}", stage) for number in range(5) for stage in (2, 3)
    ]


def test_adapters_alone_are_trained_and_merged_into_a_plain_pipeline(train: Jobs, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    train(tmp_path, lora_rank=2, unet_lr=1e-2, keep_checkpoints=True)
    name = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(base / name), load_file(tmp_path / "model" / name)
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert all(any(part in key for part in ("to_q", "to_k", "to_v", "to_out.0")) for key in moved)
    for key in moved:
        values = torch.linalg.svdvals((after[key] - before[key]).double())
        assert values[2:].max() <= 1e-5 * values[0]  # of rank 2
    newest = max((tmp_path / "checkpoints").iterdir())
    saved = sum(file.stat().st_size for file in newest.glob("*.safetensors"))
    assert saved < sum(tensor.nbytes for tensor in before.values()) / 2


def test_log_lines_have_the_speed_and_some_the_peak_memory(train: Jobs, tmp_path: Path) -> None:
    train(tmp_path)
    steps = [line for line in _log(tmp_path) if line["stage"] in (2, 3)]
    assert all(line["images_per_s"] > 0 for line in steps)
    assert any(line.get("peak_mib", 0) > 1 for line in steps)


def test_the_speed_of_a_step_is_without_what_came_before_it(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that an observation and the encoding move by 1,000 seconds."""
    from handtrain.run import folder
    from handtrain.training import train as stages
    from handtrain.training import validation

    late: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000 * len(late))
    monkeypatch.setattr(folder, "time", clock)
    observe, encode = validation.Observer._observe, stages.encode_splits

    def observed(*arguments: Any) -> None:
        late.append(1)
        observe(*arguments)

    def encoded(*arguments: Any) -> Any:
        late.append(1)
        return encode(*arguments)

    monkeypatch.setattr(validation.Observer, "_observe", observed)
    monkeypatch.setattr(stages, "encode_splits", encoded)
    train(tmp_path, unet_epochs=4, validate_every=2, validation_images=1, fusion="token", embedding_steps=0)
    steps = [line for line in _log(tmp_path) if "loss" in line]
    assert len(late) == 4 and len(steps) == 5
    assert all(line["images_per_s"] > 0.1 for line in steps)


def test_a_run_that_only_lacks_its_export_is_ended_by_a_signal_at_once(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from handtrain.training import train as stages

    def killed(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(stages, "export", killed)
    for _ in range(2):  # the second has no step to make
        with pytest.raises(Terminated):
            train(tmp_path, keep_checkpoints=True)


def test_a_fusion_layer_that_is_mixed_in_by_no_share_is_not_trained(train: Jobs, tmp_path: Path) -> None:
    run = train(tmp_path, fusion="token", lam=1.0)
    assert not [line for line in run.log if line.get("part") == "fusion"]
    assert not (run.model / "fusion.safetensors").exists()


def test_a_base_that_changes_during_the_run_is_noticed(
    train: Jobs, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(base, tmp_path / "base")
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"

    def changing(*arguments: Any, **named: Any) -> Any:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
        return stage2(*arguments, **named)

    monkeypatch.setattr("handtrain.training.train.stage2", changing)
    with pytest.raises(UserError, match=r"--base .* has changed since the run began: put its files back"):
        train(tmp_path / "run", base=copy, lora_rank=2, precision="bf16")
    assert not (tmp_path / "run" / "model").exists()
