from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.fusion import TokenFusion, mix
from handtrain.method.micro_batch import MicroBatch
from handtrain.method.noise import image_draws
from handtrain.method.unet import adam, tuning_step, warmed_up
from handtrain.model.base import open_base

LATENTS = Latents(torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((4, 4, 8, 8), 0.1))
TEXT = torch.randn(4, 77, 16, generator=torch.Generator().manual_seed(2))
DRAW = image_draws(0, "unet", [(str(number), 0) for number in range(4)], (4, 8, 8), 1000)


@pytest.fixture
def model(base: Path) -> Diffusion:
    opened = open_base(base)
    return Diffusion(opened.denoiser().train(), opened.training_schedule(), opened.scaling(), torch.device("cpu"))


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_stage_3_moves_every_weight_of_the_unet_and_no_embedding(model: Diffusion) -> None:
    before, text = _state(model.unet), TEXT.clone()
    tuning_step(model, adam(model.unet.parameters(), 1e-3), LATENTS, DRAW, text)
    still = {name for name, tensor in model.unet.state_dict().items() if torch.equal(tensor, before[name])}
    assert not still
    assert torch.equal(text, TEXT)


def test_training_the_token_layer_moves_it_and_not_the_unet(model: Diffusion) -> None:
    model.unet.requires_grad_(False)
    layer, feature, before = TokenFusion(16, 63), torch.ones(63), _state(model.unet)
    start = _state(layer)
    fuse = lambda text: mix(text, layer(text, feature), 0.7)  # noqa: E731
    tuning_step(model, adam(layer.parameters(), 1e-3), LATENTS, DRAW, TEXT, fuse)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.unet.state_dict().items())
    assert all(not torch.equal(tensor, start[name]) for name, tensor in layer.state_dict().items())


def test_micro_batches_give_the_gradient_of_the_batch(model: Diffusion) -> None:
    optimiser = torch.optim.SGD(model.unet.parameters(), lr=0.0)
    losses = tuning_step(model, optimiser, LATENTS, DRAW, TEXT)
    whole = [parameter.grad.clone() for parameter in model.unet.parameters()]
    pieces = tuning_step(replace(model, micro_batch=MicroBatch(3)), optimiser, LATENTS, DRAW, TEXT)
    assert torch.allclose(losses, pieces, rtol=1e-5)
    for parameter, gradient in zip(model.unet.parameters(), whole, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_the_rate_warms_up_linearly() -> None:
    assert [warmed_up(1.0, step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmed_up(1.0, 0, 0) == 1.0
