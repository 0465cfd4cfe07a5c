from pathlib import Path

import torch

from handtrain.data.dataset import load
from handtrain.model.base import open_base
from handtrain.presets import TrainOptions
from handtrain.run.cost import plan
from handtrain.training.train import plan_run


def test_a_plan_names_memory_disk_and_time(base: Path, dataset: Path) -> None:
    text = plan_run(dataset, gesture="call", base=base, preset="fast", device="cpu")
    assert "activations" in text and "(Stage III, 16 images at once)" in text
    assert "| fast | 0.50 GiB | fits | fits | fits |" in text
    assert "disk:" in text
    assert "PFLOP, if 30% of the peak of cpu" in text


def test_adapters_need_less_disk_than_all_weights_and_a_mean_needs_more(base: Path, dataset: Path) -> None:
    photographs, opened = load(dataset, "call"), open_base(base)
    whole, adapters = (plan("call", photographs.rows, opened, TrainOptions(lora_rank=rank)) for rank in (0, 2))
    assert adapters.disk_bytes < whole.disk_bytes
    assert adapters.parameters == whole.parameters  # of the base's network
    mean = plan("call", photographs.rows, opened, TrainOptions(ema=0.9))
    assert mean.disk_bytes == whole.disk_bytes + 3 * 4 * whole.parameters  # in every checkpoint


def test_the_disk_for_moments_in_8_bits_is_that_of_their_tensors(base: Path, dataset: Path) -> None:
    photographs, opened = load(dataset, "call"), open_base(base)
    whole, eight = (
        plan("call", photographs.rows, opened, TrainOptions(optimizer=name)) for name in ("adam", "adam8bit")
    )
    sizes = [parameter.numel() for parameter in opened.denoiser().parameters()]
    assert max(sizes) >= 4096 > min(sizes)
    moments = [  # as bitsandbytes 0.50 stores them: values, scales of blocks, and the table of the 256 values
        [torch.empty(size, dtype=torch.uint8), torch.empty(-(-size // 256)), torch.empty(256)]
        if size >= 4096 else [torch.empty(size)]
        for size in sizes
    ]  # fmt: skip
    stored = 2 * sum(tensor.nbytes for of_weight in moments for tensor in of_weight)
    assert whole.disk_bytes - eight.disk_bytes == 3 * (8 * sum(sizes) - stored)
