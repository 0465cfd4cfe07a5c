"""Replayed steps equal eager ones bit for bit. In place of a CUDA graph a tape repeats the operations on the CPU."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from handdata.errors import UserError
from handtrain import graphs
from handtrain.bench.bench import bench
from handtrain.bench.contenders import Contender, Ours, contenders, make_scene
from handtrain.graphs import Replayed, without_effect
from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.micro_batch import MicroBatch
from handtrain.method.noise import Draw, image_draws
from handtrain.method.unet import Average, adam, require_grad, set_rate, tuning_step
from handtrain.model.base import open_base
from handtrain.presets import RunOptions, TrainOptions, options_of
from handtrain.run import checkpoint
from handtrain.run import device as compute
from handtrain.training import loop, setup
from handtrain.training.pose_stage import with_pose_layers
from tests.handtrain import tape

Jobs = Callable[..., Any]
CPU = torch.device("cpu")
POSED = TrainOptions(pose="map,time,tokens")
# 22 steps of four pictures, one of them of the prior; the last step has two
RUN: dict[str, Any] = {
    "preset": "plus", "unet_batch": 4, "unet_samples": 86, "unet_warmup": 3, "unet_lr": 1e-3, "prior": 0.25,
    "prior_images": 3, "crop": "center", "min_snr": 0.05, "hand_weight": 2.0, "pose": "map,time,tokens",
    "micro_batch": 3,
}  # fmt: skip


def _fused(parameters: Iterable[torch.nn.Parameter], lr: float, *_: Any) -> torch.optim.Optimizer:
    """Return the Adam of eager steps on a GPU, whose kernel the CPU has too."""
    return torch.optim.Adam(list(parameters), lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


def _posed(base: Path, replayed: bool, precision: Any = "fp32") -> tuple[Diffusion, torch.nn.Module]:
    opened, running = open_base(base), RunOptions(micro_batch=3, graphs="on" if replayed else "off")
    schedule, options = opened.training_schedule(), replace(POSED, precision=precision)
    model = compute.diffusion(opened.denoiser(), schedule, opened.scaling(), options, running, CPU)
    require_grad(model.unet)
    model, module = with_pose_layers(model, options)
    if model.half:
        model.half.follow(model.unet)
    return model, module


def _inputs(step: int, count: int = 4) -> tuple[Latents, Draw, torch.Tensor, int]:
    generator = torch.Generator().manual_seed(step)
    mean, poses = torch.randn(count, 4, 8, 8, generator=generator), torch.rand(count, 64, generator=generator)
    poses[step % count] = torch.nan
    weights = torch.rand(count, 1, 8, 8, generator=generator)
    draw = image_draws(0, "unet", [(str(number), step) for number in range(count)], (4, 8, 8), 1000)
    text = torch.randn(count, 77, 16, generator=generator)
    return Latents(mean, torch.full_like(mean, 0.1), weights, poses), draw, text, count


class Training:
    """A training of the tiny UNet with pose layers, a running mean, parts of a batch and clipped gradients."""

    def __init__(self, model: Diffusion, module: torch.nn.Module, replayed: bool) -> None:
        self.model, self.module = model, module
        make = partial(adam, replayed=True) if replayed else _fused
        self.optimiser = make(module.parameters(), 1e-3)
        self.average = Average(module, 0.9, replayed)

    def take(self, latents: Latents, draw: Draw, text: torch.Tensor, count: int) -> torch.Tensor:
        losses = tuning_step(self.model, self.optimiser, latents, draw, text, clip=0.5)
        self.average.update(self.module)
        return losses

    def state(self) -> dict[str, torch.Tensor]:
        tensors = checkpoint.training_state(self.module, self.optimiser, self.average.weights)
        return {name: tensor.clone() for name, tensor in tensors}

    def steps(self, take: graphs.Step, counts: list[int]) -> list[torch.Tensor]:
        """Take steps with these numbers of images, at rates that change; return their losses."""
        losses = []
        for step, count in enumerate(counts):
            set_rate(self.optimiser.param_groups[0], 1e-3 / (step + 3))
            self.average.begin(step)
            losses.append(take(*_inputs(step, count)))
        return losses


def _same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(tensor, two[name]) and tensor.dtype == two[name].dtype for name, tensor in one.items())


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "captured", tape.captured)


@pytest.mark.slow
def test_replayed_steps_are_eager_steps(base: Path, taped: None) -> None:
    eager = Training(*_posed(base, replayed=False), replayed=False)
    model, module = _posed(base, replayed=True)
    assert model.replayed
    ours = Training(model, module, replayed=True)
    counts = [4, 4, 2]  # the last one is not captured
    replayed = ours.steps(Replayed(ours.take, 4, model, ours.optimiser, ours.average), counts)
    for step, (own, other) in enumerate(zip(replayed, eager.steps(eager.take, counts), strict=True)):
        assert torch.equal(own, other), step
    assert _same(ours.state(), eager.state())


@pytest.mark.slow
def test_a_number_outside_of_a_tensor_stays_as_it_was_captured(base: Path, taped: None) -> None:
    eager = Training(*_posed(base, replayed=False), replayed=False)
    model, module = _posed(base, replayed=True)
    ours = Training(model, module, replayed=True)
    ours.average = Average(module, 0.9)  # its share is a number
    ours.steps(Replayed(ours.take, 4, model, ours.optimiser, ours.average), [4, 4, 4])
    eager.steps(eager.take, [4, 4, 4])
    one, two = ours.state(), eager.state()
    assert all(torch.equal(one[name], two[name]) == (not name.startswith("average/")) for name in one)


@pytest.mark.slow
def test_steps_without_effect_change_nothing_and_begin_the_moments(base: Path) -> None:
    model, module = _posed(base, replayed=True, precision="bf16")
    ours = Training(model, module, replayed=True)
    before = ours.state()
    with without_effect(ours.optimiser, ours.average):
        ours.take(*_inputs(0))
    after = ours.state()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    begun = {name: tensor for name, tensor in after.items() if name.startswith("optimiser/")}
    assert len(begun) == 3 * sum(1 for _ in module.parameters())
    assert not any(tensor.any() for tensor in begun.values())
    ours.steps(ours.take, [4])
    moved = ours.state()
    with without_effect(ours.optimiser, ours.average):
        ours.take(*_inputs(5))
    assert _same(ours.state(), moved)
    assert not _same(moved, after)


def test_the_size_of_parts_is_fixed_in_a_capture() -> None:
    pieces, error = MicroBatch("auto"), torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError), pieces.fixed():
        pieces.halve(error, 8)
    pieces.halve(error, 8)
    assert pieces.size == 4


def test_graphs_are_on_where_they_work() -> None:
    cuda, choose, auto = torch.device("cuda"), compute.graphs, RunOptions(graphs="auto")
    assert choose(TrainOptions(), auto, cuda, 1) == "on"
    assert choose(TrainOptions(), RunOptions(), cuda, 1) == "off", "it has not been measured on a GPU yet"
    assert choose(TrainOptions(), auto, cuda, 1, own_lengths=True) == "off"
    with pytest.raises(UserError, match="--graphs on is not for a base whose texts"):
        choose(TrainOptions(), RunOptions(graphs="on"), cuda, 1, own_lengths=True)
    assert [choose(TrainOptions(), RunOptions(graphs=way), cuda, 1, "24GiB") for way in ("auto", "on")] == ["off", "on"]  # type: ignore[arg-type]
    cases: list[tuple[TrainOptions, RunOptions, torch.device, int, str]] = [
        (TrainOptions(), auto, CPU, 1, "needs a CUDA GPU, this is cpu"),
        (TrainOptions(), auto, cuda, 2, "needs one process, these are 2"),
        (TrainOptions(), replace(auto, compile="yes"), cuda, 1, "--compile is yes"),
        (TrainOptions(optimizer="adam8bit"), auto, cuda, 1, "is not for --optimizer adam8bit"),
        (options_of("reference"), auto, cuda, 1, "is not for --order images"),
        (TrainOptions(), replace(auto, gradient_checkpointing=True), cuda, 1, "--gradient-checkpointing"),
    ]
    for options, running, device, processes, reason in cases:
        assert choose(options, running, device, processes) == "off"
        with pytest.raises(UserError, match=f"--graphs on .*{reason}"):
            choose(options, replace(running, graphs="on"), device, processes)


def test_bench_compares_replayed_steps_on_a_gpu_alone() -> None:
    every = contenders(["paper"], [], ["yes"], graphs=True)
    assert [each.name for each in every[2:]] == ["preset paper", "preset paper, graphs", "preset paper, compiled"]
    with pytest.raises(UserError, match="--graphs needs a CUDA GPU, this is cpu"):
        bench(model="tiny", graphs=True, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast"])
def test_replayed_steps_are_eager_steps_in_bf16(base: Path, taped: None, precision: str) -> None:
    eager = Training(*_posed(base, replayed=False, precision=precision), replayed=False)
    model, module = _posed(base, replayed=True, precision=precision)
    ours = Training(model, module, replayed=True)
    replayed = ours.steps(Replayed(ours.take, 4, model, ours.optimiser, ours.average), [4] * 3)
    assert all(map(torch.equal, replayed, eager.steps(eager.take, [4] * 3)))
    assert _same(ours.state(), eager.state())


@pytest.mark.slow
def test_bench_times_replayed_steps(taped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(
        "handtrain.bench.contenders.tuning_step", lambda *a, **k: calls.append(1) or tuning_step(*a, **k)
    )
    monkeypatch.setattr(compute, "graphs", lambda *_: "on")
    step = Ours(make_scene("tiny", CPU), Contender("fast", batch=2, graphs=True)).start(3)
    assert [step(number) for number in range(3)] == [2, 2, 2]
    assert len(calls) == 2  # before the capture, and in it


def _checkpoint(run: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    (kept,) = (run / "checkpoints").iterdir()
    last = checkpoint.read(kept)
    assert last is not None
    return last.state, dict(last.tensors())


def _losses(run: Path) -> list[tuple[Any, ...]]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["lr"]) for line in lines if line["stage"] == 3 and "loss" in line]


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch, taped: None) -> Callable[[bool], None]:
    """Return a function that makes the steps of following runs replayed or eager."""

    def choose(on: bool) -> None:
        monkeypatch.setattr(setup, "graphs", lambda *_: "on" if on else "off")
        monkeypatch.setattr(loop, "adam", adam if on else _fused)

    return choose


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "changes"),
    [(22, {}), (5, {"precision": "bf16", "lora_rank": 2, "pose": "none", "unet_samples": 20})],
    ids=["plus", "lora"],
)
def test_a_replayed_run_is_an_eager_run(
    train: Jobs, tmp_path: Path, replayed: Callable[[bool], None], steps: int, changes: dict[str, Any]
) -> None:
    for name, on in (("eager", False), ("replayed", True)):
        replayed(on)
        train(tmp_path / name, **{**RUN, "keep_checkpoints": True, **changes})
    losses = _losses(tmp_path / "eager")
    assert len(losses) == steps
    assert _losses(tmp_path / "replayed") == losses
    assert len({rate for _, _, rate in losses}) > 0.7 * steps
    (state, tensors), (other, its_tensors) = _checkpoint(tmp_path / "eager"), _checkpoint(tmp_path / "replayed")
    assert {**state, "run": ""} == {**other, "run": ""}
    assert _same(tensors, its_tensors)
    model = [tmp_path / name / "model/unet/diffusion_pytorch_model.safetensors" for name in ("eager", "replayed")]
    assert model[0].read_bytes() == model[1].read_bytes()


@pytest.mark.slow
def test_a_replayed_run_that_is_killed_continues_with_the_same_weights(
    train: Jobs, tmp_path: Path, replayed: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed(True)
    short = {**RUN, "unet_samples": 30, "checkpoint_minutes": 0.0}  # 8 steps
    whole = train(tmp_path / "whole", **short)
    real, calls = Replayed.__call__, []

    def killed(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    for name, on in (("replayed", True), ("eager", False)):
        calls.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Replayed, "__call__", killed)
            replayed(True)
            train(tmp_path / name, **short)
        replayed(on)
        train(tmp_path / name, **short)
        for file in ("unet/diffusion_pytorch_model.safetensors", "pose.safetensors"):
            assert (tmp_path / name / "model" / file).read_bytes() == (whole.model / file).read_bytes(), (name, file)
        assert _losses(tmp_path / name) == _losses(tmp_path / "whole")
