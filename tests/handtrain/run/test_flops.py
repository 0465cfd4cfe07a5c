from pathlib import Path

import pytest
import torch

from handtrain.model.base import open_base
from handtrain.run.flops import work_of


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
