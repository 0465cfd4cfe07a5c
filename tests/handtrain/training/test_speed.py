"""What makes training fit: adapters, memory that runs out, and the work that is counted and said beforehand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handtrain.bench.contenders import MODELS
from handtrain.method.micro_batch import MicroBatch, is_out_of_memory
from handtrain.model.base import open_base
from handtrain.run.flops import work_of
from handtrain.training.train import plan_run


def test_without_auto_and_at_one_image_too_little_memory_is_told() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory")
    for micro_batch in (MicroBatch(0), MicroBatch(4), MicroBatch("auto")):
        with pytest.raises(torch.OutOfMemoryError):
            for _ in range(4):  # auto: 3, 2, 1 images, and then no further
                micro_batch.halve(full, 5)
    assert micro_batch.size == 1
    with pytest.raises(ValueError, match="another error"):
        MicroBatch("auto").halve(ValueError("another error"), 5)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_adapters_alone_are_trained_and_merged_into_a_plain_pipeline(
    train: Callable[..., Any], base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    train(tmp_path, lora_rank=2, unet_lr=1e-2)
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


def test_a_plan_names_memory_disk_and_time(base: Path, dataset: Path) -> None:
    plans = [
        plan_run(dataset, gesture="call", base=base, preset="fast", device="cpu", **changes)
        for changes in ({}, {"lora_rank": 2})
    ]
    assert "of activations for 16 images at once" in plans[0]
    assert "disk:" in plans[0]
    assert "PFLOP, if 30% of the peak of cpu" in plans[0]
    memory_lines = [next(line for line in text.splitlines() if line.startswith("memory:")) for text in plans]
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


def test_a_log_line_says_speed_and_now_and_then_memory(train: Callable[..., Any], tmp_path: Path) -> None:
    train(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] in (2, 3)]
    assert all(line["images_per_s"] > 0 for line in steps)
    assert any(line.get("peak_mib", 0) > 1 for line in steps)


def test_the_bench_trains_what_it_says() -> None:
    from diffusers import UNet2DConditionModel

    counts = {}
    for name in ("sd14", "small"):
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel(**MODELS[name])
        counts[name] = sum(parameter.numel() for parameter in unet.parameters())
    assert counts == {"sd14": 859_520_964, "small": 5_057_532}
