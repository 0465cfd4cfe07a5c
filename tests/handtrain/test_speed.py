"""What makes training fit and fast: pieces that halve, adapters, bf16, compilation, and the bench that times it all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from handdata.errors import UserError
from handtrain import compute, memory
from handtrain.bench import CHUNK, MODELS, Job, bench
from handtrain.diffusion import Diffusion, Latents
from handtrain.memory import MicroBatch
from handtrain.models import open_base
from handtrain.noise import image_draws
from handtrain.prefetch import ahead
from handtrain.presets import RunOptions, TrainOptions, check, check_running, options_of
from handtrain.train import train
from handtrain.unet import adam, tuning_step
from handtrain.work import work_of

CPU = torch.device("cpu")
COUNT = 16
LATENTS = Latents(
    torch.randn(COUNT, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((COUNT, 4, 8, 8), 0.1)
)
TEXT = torch.randn(COUNT, 77, 16, generator=torch.Generator().manual_seed(2))
DRAW = image_draws(0, "unet", [(str(number), 0) for number in range(COUNT)], (4, 8, 8), 1000)


@pytest.fixture
def model(base: Path) -> Callable[..., Diffusion]:
    opened = open_base(base)

    def make(options: TrainOptions | None = None, running: RunOptions | None = None) -> Diffusion:
        options, running = options or TrainOptions(), running or RunOptions()
        made = compute.diffusion(opened.unet(), opened.training_schedule(), opened.scaling(), options, running, CPU)
        made.unet.requires_grad_(True)
        return made

    return make


def _weights(model: Diffusion) -> torch.Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.unet.parameters()])


def _movement(model: Diffusion, pieces: MicroBatch, lr: float = 1e-3) -> torch.Tensor:
    before = _weights(model)
    tuning_step(model, adam(model.unet.parameters(), lr), LATENTS, DRAW, lambda part: TEXT[part], pieces)
    return _weights(model) - before


def test_pieces_of_1_4_and_16_images_make_the_same_step(model: Callable[..., Diffusion]) -> None:
    whole = _movement(model(), MicroBatch(16))
    for size in (1, 4):
        moved = _movement(model(), MicroBatch(size))
        assert (moved - whole).norm() <= 1e-3 * whole.norm()


def test_too_little_memory_halves_the_pieces_and_makes_the_same_step(
    model: Callable[..., Diffusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _movement(model(), MicroBatch(0))
    real, sizes = Diffusion.losses, []

    def narrow(self: Diffusion, latents: Latents, draw: Any, embeddings: torch.Tensor) -> torch.Tensor:
        sizes.append(len(latents))
        if len(latents) > 4 or len(sizes) == 4:  # the second time in the middle of a batch
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, latents, draw, embeddings)

    monkeypatch.setattr(Diffusion, "losses", narrow)
    pieces = MicroBatch("auto")
    moved = _movement(model(), pieces)
    assert sizes == [16, 8, 4, 4, *[2] * 8]
    assert pieces.size == 2
    assert (moved - whole).norm() <= 1e-3 * whole.norm()


def test_without_auto_and_at_one_image_too_little_memory_is_told() -> None:
    def full(_: slice) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for pieces in (MicroBatch(0), MicroBatch(4), MicroBatch("auto")):
        with pytest.raises(torch.OutOfMemoryError):
            pieces.losses(5, full, lambda: None, CPU)
    assert memory.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not memory.is_out_of_memory(RuntimeError("shapes do not fit"))


def test_bf16_computes_in_16_bits_and_keeps_weights_in_32(model: Callable[..., Diffusion]) -> None:
    exact, half = model(), model(replace(TrainOptions(), precision="bf16"))
    kinds = set()
    half.unet.conv_out.register_forward_hook(lambda _, inputs, output: kinds.add(output.dtype))
    one = _movement(exact, MicroBatch())
    other = _movement(half, MicroBatch())
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in half.unet.parameters()} == {torch.float32}
    apart = float((other - one).norm() / one.norm())
    assert 0 < apart < 1.0  # Adam's first step is the gradient's sign, which rounding turns for the smallest ones
    cosine = float(torch.dot(one, other) / (one.norm() * other.norm()))
    assert cosine > 0.9


def test_what_this_machine_cannot_do_is_one_sentence() -> None:
    def told(options: TrainOptions, running: RunOptions | None = None) -> None:
        compute.resolved(options, running or RunOptions(), CPU)

    assert compute.resolved(replace(TrainOptions(), precision="auto"), RunOptions(), CPU).precision == "fp32"
    with pytest.raises(UserError, match="adam8bit needs a CUDA GPU"):
        told(replace(TrainOptions(), optimizer="adam8bit"))
    with pytest.raises(UserError, match="cuda-graphs needs a CUDA GPU"):
        told(TrainOptions(), replace(RunOptions(), compile="cuda-graphs"))
    with pytest.raises(UserError, match="--micro-batch -1"):
        check_running(replace(RunOptions(), micro_batch=-1))
    with pytest.raises(UserError, match="--lora-rank -1"):
        check(replace(TrainOptions(), lora_rank=-1))
    with pytest.raises(UserError, match="repeats the released code"):
        check(replace(options_of("reference"), lora_rank=4))


def test_adapters_alone_are_trained_and_merged_into_a_plain_pipeline(
    job: Callable[..., Any], base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    assert train(job(tmp_path, lora_rank=2, unet_lr=1e-2)) == 0
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


def test_a_dry_run_says_memory_disk_and_time(
    job: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for changes in ({}, {"lora_rank": 2}):
        assert train(job(tmp_path / "run", "fast", dry_run=True, **changes)) == 0
        said.append(capsys.readouterr().out)
    assert "of activations for 16 images at once" in said[0]
    assert "disk:" in said[0]
    assert "PFLOP, if 30% of the peak of cpu" in said[0]
    memory_lines = [next(line for line in one.splitlines() if line.startswith("memory:")) for one in said]
    assert memory_lines[0] != memory_lines[1] or "0.00 GiB" in memory_lines[0]


def test_work_is_counted_as_torch_counts_what_it_computes(base: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    unet = open_base(base).unet().requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        text = torch.zeros(1, 77, 16)
        unet(torch.zeros(1, 4, 8, 8), torch.zeros(1, dtype=torch.int64), text).sample.mean().backward()
    work = work_of(dict(unet.config), 8, 77, 16)
    assert work.stage3 == pytest.approx(counter.get_total_flops(), rel=0.06)  # a fused attention computes some twice
    assert 0.5 * work.stage3 < work.stage2 < 0.8 * work.stage3
    assert work.activations > 0


@pytest.mark.slow
def test_work_of_stable_diffusion_is_what_others_counted() -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**MODELS["sd14"])
    work = work_of(dict(unet.config), 64, 77, 768)
    assert work.stage3 == pytest.approx(2.407e12, rel=0.01)  # a forward pass being 0.803 TFLOP
    assert work.stage2 == pytest.approx(1.669e12, rel=0.02)


def test_the_next_input_is_made_while_this_one_is_used() -> None:
    assert list(ahead(lambda step: step * step, range(2, 5))) == [(2, 4), (3, 9), (4, 16)]
    assert list(ahead(lambda step: step, range(0))) == []


def test_a_log_line_says_speed_and_now_and_then_memory(job: Callable[..., Any], tmp_path: Path) -> None:
    assert train(job(tmp_path)) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] in (2, 3)]
    assert all(line["images_per_s"] > 0 for line in steps)
    assert any(line.get("peak_mib", 0) > 1 for line in steps)


@pytest.mark.slow
def test_the_bench_times_everybody_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    assert bench(Job("tiny", ("fast",), steps=CHUNK, warmup=1, images=100, device="cpu", json=path)) == 0
    said = capsys.readouterr().out
    assert "extrapolated from these steps" in said
    found = json.loads(path.read_text())
    assert list(found["contenders"]) == [
        "plain loop, without checkpointing", "plain loop, with checkpointing", "preset fast",
    ]  # fmt: skip
    fast, plain = found["contenders"]["preset fast"], found["contenders"]["plain loop, without checkpointing"]
    assert plain["ratio"] == 1
    assert fast["stage3"]["timed_images"] == 16 * CHUNK
    assert plain["stage2"]["timed_images"] == CHUNK
    seconds = 100 * 10 / fast["stage2"]["images_per_s"] + 100 * 20 / fast["stage3"]["images_per_s"]
    assert fast["gesture_seconds"] == pytest.approx(seconds)
    assert fast["stage3"]["mfu"] > 0
    with pytest.raises(UserError, match="multiple of 20"):
        bench(Job(steps=30))


def test_the_bench_trains_what_it_says() -> None:
    from diffusers import UNet2DConditionModel

    counts = {}
    for name in ("sd14", "small"):
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel(**MODELS[name])
        counts[name] = sum(parameter.numel() for parameter in unet.parameters())
    assert counts == {"sd14": 859_520_964, "small": 5_057_532}
