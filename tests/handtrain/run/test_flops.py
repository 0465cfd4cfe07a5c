from pathlib import Path

import pytest
import torch

from handtrain.model.base import open_base
from handtrain.run.flops import known_peak, work_of


def test_work_equals_torchs_count_of_a_real_step(base: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    unet = open_base(base).denoiser().requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        text = torch.zeros(1, 77, 16)
        unet(torch.zeros(1, 4, 8, 8), torch.zeros(1, dtype=torch.int64), text).sample.mean().backward()
    work = work_of(dict(unet.config), 8, 77, 16)
    assert work.stage3 == pytest.approx(counter.get_total_flops(), rel=0.06)  # a fused attention computes some twice
    assert 0.5 * work.stage3 < work.stage2 < 0.8 * work.stage3
    assert 0.3 * work.stage3 < work.forward < 0.36 * work.stage3


@pytest.mark.slow
def test_work_of_stable_diffusion() -> None:
    work = work_of(
        {"in_channels": 4, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}, 64, 77, 768
    )
    assert work.stage2 == pytest.approx(1.669e12, rel=1e-3)
    assert work.stage3 == pytest.approx(2.407e12, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12), ("NVIDIA A10G", 70e12), ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA RTX A1000", None), ("NVIDIA L40", None),
    ],
)  # fmt: skip
def test_a_peak_is_that_of_the_whole_word(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert known_peak(torch.device("cuda")) == peak
