"""Precision, adapters, micro-batches and compilation: the effect of each on a training step."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from handdata.errors import UserError
from handdata.limits.numbers import require_ranges
from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.micro_batch import MicroBatch
from handtrain.method.noise import image_draws
from handtrain.method.unet import adam, add_adapters, tuning_step
from handtrain.model.base import open_base
from handtrain.presets import RunOptions, TrainOptions, check, check_running, options_of
from handtrain.run import device as compute
from handtrain.training import loop

Jobs = Callable[..., Any]
CPU = torch.device("cpu")
COUNT = 16


def _model(base: Path, running: RunOptions | None = None, **changes: Any) -> Diffusion:
    opened = open_base(base)
    options, running = TrainOptions(**changes), running or RunOptions()
    model = compute.diffusion(opened.denoiser(), opened.training_schedule(), opened.scaling(), options, running, CPU)
    model.unet.requires_grad_(True)
    if model.half:
        model.half.follow(model.unet)
    return model


def _stepped(model: Diffusion, micro_batch: MicroBatch) -> torch.Tensor:
    """Return the weights after one step on the same batch of 16."""
    generator = torch.Generator().manual_seed(1)
    latents = Latents(torch.randn(COUNT, 4, 8, 8, generator=generator), torch.full((COUNT, 4, 8, 8), 0.1))
    text = torch.randn(COUNT, 77, 16, generator=generator)
    draw = image_draws(0, "unet", [(str(number), 0) for number in range(COUNT)], (4, 8, 8), 1000)
    model = replace(model, micro_batch=micro_batch)
    tuning_step(model, adam(model.unet.parameters(), 1e-3), latents, draw, text)
    return torch.cat([parameter.detach().flatten() for parameter in model.unet.parameters()])


def _apart(first: torch.Tensor, second: torch.Tensor, base: Path) -> float:
    start = torch.cat([parameter.detach().flatten() for parameter in _model(base).unet.parameters()])
    return float((first - second).norm() / (second - start).norm())


def test_micro_batches_of_1_4_and_16_give_the_same_step(base: Path) -> None:
    whole = _stepped(_model(base), MicroBatch(16))
    for size in (1, 4):
        assert _apart(_stepped(_model(base), MicroBatch(size)), whole, base) <= 1e-3, size


def test_auto_halves_until_the_batch_fits_with_the_same_result(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, real = _stepped(_model(base), MicroBatch(4)), Diffusion.losses

    def small_card(self: Diffusion, latents: Latents, *rest: Any) -> torch.Tensor:
        if len(latents) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, latents, *rest)

    monkeypatch.setattr(Diffusion, "losses", small_card)
    pieces = MicroBatch("auto")
    assert torch.equal(_stepped(_model(base), pieces), expected)
    assert pieces.size == 4
    with pytest.raises(torch.OutOfMemoryError):
        _stepped(_model(base), MicroBatch(8))


@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast"])
def test_bf16_keeps_the_weights_in_float32_and_the_loss_close(base: Path, precision: str) -> None:
    model = _model(base, precision=precision)
    assert all(parameter.dtype == torch.float32 for parameter in model.unet.parameters())
    latents = Latents(torch.ones(2, 4, 8, 8), torch.ones(2, 4, 8, 8))
    draw, text = image_draws(0, "a", [("a", 0), ("b", 0)], (4, 8, 8), 1000), torch.ones(2, 77, 16)
    exact, rough = (each.losses(latents, draw, text) for each in (_model(base), model))
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert torch.allclose(exact, rough, rtol=0.02)


def test_a_step_in_bf16_moves_the_weights_as_one_in_float32(base: Path) -> None:
    exact = _stepped(_model(base), MicroBatch(16))
    model = _model(base, precision="bf16")
    rough = _stepped(model, MicroBatch(16))
    # Adam's first step is the gradient's sign: rounding turns those of gradients near 0 alone
    start = torch.cat([parameter.detach().flatten() for parameter in _model(base).unet.parameters()])
    same = ((rough - start) * (exact - start) > 0).double().mean()
    assert same > 0.9
    assert model.half is not None
    for weight, own in zip(model.unet.parameters(), model.half.network.parameters(), strict=True):
        assert torch.equal(own, weight.bfloat16())
    assert _apart(_stepped(_model(base, precision="bf16"), MicroBatch(4)), rough, base) <= 0.3


def test_the_layout_is_contiguous_where_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts: list[Any] = []

    class Unet(torch.nn.Conv2d):
        def to(self, *arguments: Any, **named: Any) -> "Unet":
            layouts.append(named.get("memory_format"))
            return self

    monkeypatch.setattr(compute, "compiled", lambda network, _: network)
    monkeypatch.setattr(compute, "HalfCopy", lambda *_: None)  # there is a GPU in name only
    precision: Any
    compiled: Any
    for precision, compiled in (("bf16", "no"), ("bf16", "yes"), ("fp32", "yes"), ("bf16", "blocks")):
        options, running = TrainOptions(precision=precision), RunOptions(compile=compiled)
        compute.diffusion(Unet(1, 1, 1), None, 1.0, options, running, torch.device("cuda"))
    assert layouts == [None, torch.channels_last, None, None, None]  # None: to the GPU


@pytest.mark.parametrize("changes", [{}, {"pose": "map,time", "unet_lr": 1e-3}], ids=["unet", "pose"])
def test_a_run_in_bf16_that_is_stopped_ends_in_the_same_weights(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    common = {"precision": "bf16", "unet_batch": 1, "unet_epochs": 1, "checkpoint_minutes": 0.0, **changes}
    train(tmp_path / "whole", **common)
    steps: list[int] = []

    def failing(*arguments: Any) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return tuning_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "tuning_step", failing)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", **common)
    train(tmp_path / "stopped", **common)
    name = "model/unet/diffusion_pytorch_model.safetensors"
    whole, stopped = (load_file(tmp_path / run / name) for run in ("whole", "stopped"))
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    assert {tensor.dtype for tensor in stopped.values()} == {torch.float32}


def test_a_run_in_bf16_with_adapters_leaves_a_plain_model(train: Jobs, base: Path, tmp_path: Path) -> None:
    changes = {"lora_rank": 2, "precision": "bf16", "unet_lr": 1e-2, "micro_batch": "auto", "keep_checkpoints": True}
    train(tmp_path / "run", **changes)
    name = "unet/diffusion_pytorch_model.safetensors"
    tuned, before = load_file(tmp_path / "run" / "model" / name), load_file(base / name)
    assert tuned.keys() == before.keys()
    moved = {name for name in before if not torch.equal(tuned[name], before[name])}
    assert moved
    assert all("attn" in name and "to_" in name for name in moved)
    kept = load_file(next((tmp_path / "run" / "checkpoints").glob("*/00000.safetensors")))
    assert all("lora_" in name for name in kept)


def test_beneath_adapters_in_bf16_the_frozen_weights_stay_in_the_computers_memory(base: Path) -> None:
    opened, running = open_base(base), RunOptions()
    places = {}
    for precision in ("bf16", "fp32"):
        unet = opened.denoiser()
        add_adapters(unet, 2, seed=0)
        options, device = TrainOptions(lora_rank=2, precision=precision), torch.device("meta")
        model = compute.diffusion(unet, opened.training_schedule(), opened.scaling(), options, running, device)
        kinds = {"lora_" in name: parameter.device.type for name, parameter in model.unet.named_parameters()}
        copies = {parameter.device.type for parameter in model.half.network.parameters()} if model.half else set()
        places[precision] = kinds[True], kinds[False], copies
    assert places == {"bf16": ("meta", "cpu", {"meta"}), "fp32": ("meta", "meta", set())}


@pytest.mark.slow
def test_samples_of_adapters_in_bf16_are_drawn_by_the_copy(train: Jobs, tmp_path: Path) -> None:
    pictures = {}
    for precision in ("bf16", "fp32"):
        changes = {"lora_rank": 2, "precision": precision, "pose": "map", "ema": 0.9, "unet_batch": 2}
        train(tmp_path / precision, **changes, sample_every=100, validate_every=100, unet_lr=1e-3)
        files = sorted((tmp_path / precision / "samples").glob("*.png"))
        assert len(files) == 2  # before the first step and after the last
        pictures[precision] = [np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files]
    for rough, exact in zip(pictures["bf16"], pictures["fp32"], strict=True):
        assert 0 < np.abs(rough - exact).mean() < 3  # rounded, and otherwise the same


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"optimizer": "adam8bit"}, "--optimizer adam8bit needs a CUDA GPU"), ({}, "--compile cuda-graphs needs a CUDA")],
)
def test_an_option_that_needs_a_gpu_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compute.resolved(TrainOptions(**changes), RunOptions(compile="cuda-graphs"), CPU)


def test_fast_is_fp32_on_a_cpu_and_wrong_values_are_refused() -> None:
    assert compute.resolved(options_of("fast"), RunOptions(), CPU).precision == "fp32"
    with pytest.raises(UserError, match="--micro-batch -1"):
        require_ranges(RunOptions(micro_batch=-1))
    with pytest.raises(UserError, match="--order images repeats"):
        check(TrainOptions(order="images", embedding_batch=1, lora_rank=4))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["yes", "blocks"])
def test_a_compiled_unet_makes_the_same_step(base: Path, way: Any) -> None:
    plain, compiled = (_model(base, RunOptions(compile=name)) for name in ("no", way))
    assert compiled.call is not None and compiled.compiled and not plain.compiled
    expected = _stepped(plain, MicroBatch())
    assert _apart(_stepped(compiled, MicroBatch()), expected, base) <= 1e-3


@pytest.mark.slow
def test_blocks_are_compiled_with_poses_and_adapters_and_the_cost_is_printed(
    train: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for way in ("no", "blocks"):
        changes = {"lora_rank": 2, "precision": "bf16", "pose": "map", "unet_batch": 2, "unet_lr": 1e-3}
        run = train(tmp_path / way, **changes, embedding_batch=2, compile=way, validate_every=100, sample_every=100)
        lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
        printed = capsys.readouterr().err
        for stage in ("Stage II", "Stage III"):
            assert (f"compiling for {stage} took" in printed) == (way == "blocks")
        phases = json.loads((run.path / "run.json").read_text())["sessions"][-1]["phases"]
        assert ("compile" in phases) == (way == "blocks")
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)
    assert len(losses[0]) > 3 and losses[0] != losses[1]


def test_poses_need_compiled_blocks_in_place_of_a_whole() -> None:
    for way in ("yes", "cuda-graphs"):
        with pytest.raises(UserError, match=f"--compile {way} does not support pose layers: use --compile blocks"):
            check_running(RunOptions(compile=way), TrainOptions(pose="map"))  # type: ignore[arg-type]
    check_running(RunOptions(compile="blocks"), TrainOptions(pose="map"))


def test_a_comparison_without_memory_is_left_out_and_the_training_halves(
    base: Path, train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, tried = Diffusion.losses, []

    def small_card(self: Diffusion, latents: Latents, *rest: Any) -> torch.Tensor:
        tried.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, latents, *rest)

    monkeypatch.setattr(Diffusion, "losses", small_card)
    monkeypatch.setattr(compute, "compiled", lambda network, _: network)
    changes = {"unet_batch": 2, "micro_batch": "auto", "compile": "yes", "embedding_batch": 2}
    run = train(tmp_path / "run", **changes)
    assert run.model.is_dir() and set(tried) == {1, 2}
    message = "was not compared with eager passes, for which memory is short"
    assert f"compiling for Stage II {message}" in capsys.readouterr().err


def test_a_stage_without_a_whole_batch_is_not_compiled(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compute, "compiled", lambda network, _: network)
    train(tmp_path / "run", compile="yes", embedding_batch=8, unet_batch=2)
    printed = capsys.readouterr().err
    assert "Stage II has fewer images than a batch and is not compiled" in printed
    assert "compiling for Stage III took" in printed


def test_the_order_of_the_released_code_has_no_warm_up_and_its_noise_needs_the_gpu_that_draws_it() -> None:
    with pytest.raises(UserError, match="lacks --unet-warmup"):
        check(replace(options_of("reference"), unet_warmup=50))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--noise-device cuda needs a CUDA GPU"):
            compute.resolved(replace(options_of("reference"), noise_device="cuda"), RunOptions(), CPU)
