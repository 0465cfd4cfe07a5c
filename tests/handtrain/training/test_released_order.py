"""`reference` against a second program, written from the released code, which shares nothing with ours."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def test_all_30_losses_of_every_image_equal_an_independent_program(
    train: Callable[..., Any], base: Path, dataset: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", "reference", lam=1.0, limit=2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    ours = [(line["image_id"], line["stage"], line["step"], line["loss"]) for line in lines if "loss" in line]
    theirs = _second_program(base, dataset, images=2)
    assert [line[:3] for line in ours] == [line[:3] for line in theirs]
    assert len(ours) == 2 * 30
    for our, their in zip(ours, theirs, strict=True):
        assert our[3] == pytest.approx(their[3], rel=1e-5), our[:3]
    second_pass = [loss for name, stage, step, loss in theirs if stage == 3 and step > 15]
    assert np.ptp(second_pass) > 1e-3  # the losses differ: the comparison could have failed


def test_the_tuned_unet_equals_that_of_the_independent_program(
    train: Callable[..., Any], base: Path, dataset: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    train(tmp_path / "run", "reference", lam=1.0, limit=1, unet_lr=1e-4)
    tuned = load_file(tmp_path / "run" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    weights: dict[str, torch.Tensor] = {}
    _second_program(base, dataset, images=1, unet_lr=1e-4, keep=weights)
    before = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    moved = math.sqrt(sum(float((tuned[name] - before[name]).pow(2).sum()) for name in tuned))
    apart = math.sqrt(sum(float((tuned[name] - weights[name]).pow(2).sum()) for name in tuned))
    assert apart < 0.01 * moved


def _second_program(
    base: Path, dataset: Path, images: int, unet_lr: float = 1e-6, keep: dict[str, torch.Tensor] | None = None
) -> list[tuple[str, int, int, float]]:
    import pyarrow.parquet as pq
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder")
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    rows = pq.read_table(dataset / "data" / "call" / "train-00000-of-00001.parquet").to_pylist()
    rows = sorted(rows, key=lambda row: row["image_id"])[:images]
    losses = []
    for row in rows:
        with torch.no_grad():
            posterior = vae.encode(_picture(row["image"]["bytes"])).latent_dist
            ids = tokenizer([row["text"]], padding="max_length", max_length=77, truncation=True, return_tensors="pt")
            embedding = text_encoder(ids.input_ids).last_hidden_state
        generator = torch.Generator().manual_seed(0)
        latent = (posterior.mean + posterior.std * torch.randn((1, 4, 8, 8), generator=generator)) * 0.18215
        torch.randn((1, 4, 8, 8), generator=generator)

        def loss(text: torch.Tensor, latent: torch.Tensor = latent, generator: Any = generator) -> torch.Tensor:
            noise = torch.randn((1, 4, 8, 8), generator=generator)
            t = int(torch.randint(0, 1000, (1,), generator=generator))
            noisy = math.sqrt(kept[t]) * latent + math.sqrt(1 - kept[t]) * noise
            return torch.nn.functional.mse_loss(unet(noisy, t, text).sample, noise)

        embedding = embedding.clone().requires_grad_(True)
        step_of = _Adam([embedding], 1e-3)
        for step in range(10):
            value = loss(embedding)
            losses.append((row["image_id"], 2, step, float(value.detach())))
            step_of(torch.autograd.grad(value, [embedding]))
        frozen, weights = embedding.detach(), list(unet.parameters())
        step_of = _Adam(weights, unet_lr)
        for step in range(20):
            value = loss(frozen)
            losses.append((row["image_id"], 3, step, float(value.detach())))
            step_of(torch.autograd.grad(value, weights))
    if keep is not None:
        keep.update({name: weight.detach() for name, weight in unet.named_parameters()})
    return losses


def _picture(data: bytes) -> torch.Tensor:
    """Resize the short side to 16 and crop the center, as the released code does with torchvision."""
    import io

    import torchvision.transforms as transforms
    from PIL import Image

    bilinear = transforms.InterpolationMode.BILINEAR
    steps = [transforms.Resize(16, bilinear, antialias=True), transforms.CenterCrop(16), transforms.ToTensor()]
    return transforms.Compose(steps)(Image.open(io.BytesIO(data)))[None] * 2 - 1


class _Adam:
    """Kingma and Ba, algorithm 1."""

    def __init__(self, weights: list[torch.Tensor], lr: float) -> None:
        self.weights, self.lr, self.t = weights, lr, 0
        self.m = [torch.zeros_like(weight) for weight in weights]
        self.v = [torch.zeros_like(weight) for weight in weights]

    def __call__(self, gradients: Any) -> None:
        self.t += 1
        with torch.no_grad():
            for weight, g, m, v in zip(self.weights, gradients, self.m, self.v, strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                weight -= self.lr * (m / (1 - 0.9**self.t)) / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8)
