from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from handtrain.method.diffusion import noise_prediction_loss, sample_latents

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _loss(predict: Any, weights: torch.Tensor | None = None, kind: str = "epsilon") -> torch.Tensor:
    schedule: Any = DDPMScheduler(**SCHEDULE, prediction_type=kind)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    times = torch.tensor([10, 900])
    kept = schedule.alphas_cumprod[times].view(2, 1, 1, 1)
    inputs = SimpleNamespace(latents=latents, noise=noise, kept=kept)

    def unet(noisy: torch.Tensor, t: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        assert torch.allclose(noisy, kept.sqrt() * latents + (1 - kept).sqrt() * noise, atol=1e-6)
        return (predict(inputs),)

    return noise_prediction_loss(unet, schedule, latents, noise, times, torch.zeros(2, 77, 8), weights)


def test_the_loss_is_the_square_of_the_offset_from_the_noise() -> None:
    assert _loss(lambda inputs: inputs.noise).tolist() == [0, 0]
    assert _loss(lambda inputs: inputs.noise + 0.5).tolist() == pytest.approx([0.25, 0.25])


def test_the_target_of_v_prediction_is_the_velocity() -> None:
    def velocity(inputs: Any) -> torch.Tensor:
        return inputs.kept.sqrt() * inputs.noise - (1 - inputs.kept).sqrt() * inputs.latents

    assert _loss(velocity, kind="v_prediction").tolist() == pytest.approx([0, 0], abs=1e-10)
    assert (_loss(lambda inputs: inputs.noise, kind="v_prediction") > 1e-3).all()


def test_weights_apply_to_their_cells() -> None:
    weights = torch.zeros(2, 1, 8, 8)
    weights[:, :, :4] = 2  # mean 1

    def wrong_below(inputs: Any) -> torch.Tensor:
        return inputs.noise + torch.cat([torch.zeros(2, 4, 4, 8), torch.ones(2, 4, 4, 8)], dim=2)

    assert _loss(wrong_below).tolist() == pytest.approx([0.5, 0.5])
    assert _loss(wrong_below, weights).tolist() == [0, 0]
    assert _loss(lambda inputs: inputs.noise + 1, weights).tolist() == pytest.approx([1, 1])


def test_latents_are_drawn_from_the_posterior_and_scaled() -> None:
    mean, deviation = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 0.5)
    assert torch.equal(sample_latents(mean, deviation, torch.ones(1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), 7.0))
