from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.embedding import optimise_embeddings
from handtrain.method.micro_batch import MicroBatch
from handtrain.method.noise import image_draws
from handtrain.model.base import open_base

COUNT, STEPS = 16, 5


@pytest.fixture(scope="module")
def model(base: Path) -> Diffusion:
    opened = open_base(base)
    unet = opened.denoiser().requires_grad_(False).train()
    return Diffusion(unet, opened.training_schedule(), opened.scaling(), torch.device("cpu"))


@pytest.fixture(scope="module")
def start() -> torch.Tensor:
    return torch.randn(COUNT, 77, 16, generator=torch.Generator().manual_seed(2))


def _optimise(model: Diffusion, start: torch.Tensor, rows: slice, micro_batch: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(COUNT, 4, 8, 8, generator=generator)
    latents = Latents(mean, torch.full_like(mean, 0.1))[rows]
    names = [f"image-{number}" for number in range(COUNT)][rows]
    draws = (image_draws(0, "stage2", [(name, step) for name in names], (4, 8, 8), 1000) for step in range(STEPS))
    model = replace(model, micro_batch=MicroBatch(micro_batch))
    embeddings, losses = optimise_embeddings(model, latents, start[rows], draws, 1e-3)
    assert losses.shape == (STEPS, len(names))
    return embeddings


def test_every_batch_size_gives_the_same_embeddings(model: Diffusion, start: torch.Tensor) -> None:
    whole = _optimise(model, start, slice(0, COUNT))
    moved = (whole - start).norm()
    assert moved > 0.1
    for size in (1, 3):
        pieces = [_optimise(model, start, slice(at, min(at + size, COUNT))) for at in range(0, COUNT, size)]
        assert (torch.cat(pieces) - whole).norm() <= 1e-4 * moved, size


def test_a_micro_batch_gives_the_same_embeddings(model: Diffusion, start: torch.Tensor) -> None:
    whole = _optimise(model, start, slice(0, COUNT))
    assert (_optimise(model, start, slice(0, COUNT), 5) - whole).norm() <= 1e-4 * (whole - start).norm()


def test_only_the_embeddings_move(model: Diffusion, start: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    kept = start.clone()
    optimised = _optimise(model, start, slice(0, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.unet.state_dict().items())
    assert all(parameter.grad is None for parameter in model.unet.parameters())
    assert torch.equal(start, kept)
    assert (optimised != start[:2]).flatten(1).any(1).all()
    assert float((optimised - start[:2]).abs().max()) <= STEPS * 1e-3 * 1.2  # the most that Adam can move, and its bias


def test_the_loss_goes_down(model: Diffusion, start: torch.Tensor) -> None:
    latents = Latents(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8))
    draws = [image_draws(0, "same", [("a", 0)], (4, 8, 8), 1000)] * 30  # one draw, so that losses compare
    _, losses = optimise_embeddings(model, latents, start[:1], draws, 1e-2)
    assert losses[-1] < losses[0] - 1e-3
