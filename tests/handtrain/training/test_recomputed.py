"""The losses of both stages, computed a second time with plain torch and the library's networks and scheduler."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from tests.handtrain import tiny

STEPS, COUNT, BATCH, LR2, LR3 = 10, 5, 2, 1e-2, 1e-3


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")


def _draws(part: str, keys: list[tuple[str, int]]) -> list[torch.Tensor]:
    """Return the draws of images in the order of docs: the posterior's, the noise, the time."""
    drawn = []
    for name, step in keys:
        generator = torch.Generator().manual_seed(_seed(0, part, name, step))
        normal, noise = (torch.randn(4, 8, 8, generator=generator) for _ in range(2))
        drawn.append((normal, noise, torch.randint(1000, (), generator=generator)))
    return [torch.stack(values) for values in zip(*drawn, strict=True)]


def _inputs(base: Path, rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mean and deviation (n, 4, 8, 8) of the pictures' latents, and the texts' embeddings (n, 77, 16)."""
    vae, encoder = AutoencoderKL.from_pretrained(base / "vae"), CLIPTextModel.from_pretrained(base / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    pixels = []
    for row in rows:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).resize((22, 16), Image.Resampling.BILINEAR)
        square = np.asarray(image.crop((3, 0, 19, 16)), dtype=np.float32)
        pixels.append(torch.from_numpy(square / 127.5 - 1).permute(2, 0, 1))
    texts = [row["text"] for row in rows]
    ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        latents = vae.encode(torch.stack(pixels)).latent_dist
        return latents.mean, latents.std, encoder(ids).last_hidden_state


def _recomputed(base: Path, rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Return the mean losses of ten steps of Stage II on all images, then of Stage III on batches of two."""
    mean, deviation, embeddings = _inputs(base, rows)
    names = [row["image_id"] for row in rows]
    unet = UNet2DConditionModel.from_pretrained(base / "unet").train().requires_grad_(False)
    schedule = DDPMScheduler.from_pretrained(base / "scheduler")

    def loss(part: str, keys: list[tuple[int, int]], texts: torch.Tensor) -> torch.Tensor:
        places = [place for place, _ in keys]
        normal, noise, times = _draws(part, [(names[place], step) for place, step in keys])
        latents = (mean[places] + deviation[places] * normal) * 0.18215
        noisy = schedule.add_noise(latents, noise, times)
        return (unet(noisy, times, texts).sample - noise).square().flatten(1).mean(1)

    return two_stages(unet, embeddings, loss)


def two_stages(
    unet: Any, embeddings: torch.Tensor, loss: Callable[[str, list[tuple[int, int]], torch.Tensor], torch.Tensor]
) -> tuple[list[float], list[float]]:
    """Train embeddings, then a UNet, with Adam; `loss` is that of (place, step) pairs in a part of the run."""
    texts = embeddings.clone().requires_grad_(True)
    optimiser, second = torch.optim.Adam([texts], lr=LR2), []
    for step in range(STEPS):
        losses = loss("stage2", [(place, step) for place in range(COUNT)], texts)
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
        second.append(float(losses.detach().mean()))
    unet.requires_grad_(True)
    optimiser, third = torch.optim.Adam(unet.parameters(), lr=LR3), []
    sequence = list(_order())
    for step in range(STEPS):
        keys = sequence[BATCH * step : BATCH * (step + 1)]
        losses = loss("unet", keys, texts.detach()[[place for place, _ in keys]])
        optimiser.zero_grad()
        losses.mean().backward()
        optimiser.step()
        third.append(float(losses.detach().mean()))
    return second, third


def _order() -> Iterator[tuple[int, int]]:
    for epoch in range(STEPS * BATCH // COUNT):
        generator = torch.Generator().manual_seed(_seed(0, "unet", epoch))
        yield from ((place, epoch) for place in torch.randperm(COUNT, generator=generator).tolist())


def test_ten_losses_of_both_stages_equal_those_of_plain_torch(
    base: Path, train: Callable[..., Any], tmp_path: Path
) -> None:
    run = train(
        tmp_path / "run", "paper", lam=1.0, embedding_steps=STEPS, embedding_lr=LR2, unet_batch=BATCH, unet_lr=LR3,
        unet_epochs=STEPS * BATCH // COUNT,
    )  # fmt: skip
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    logged = [[line["loss"] for line in lines if line.get("stage") == stage and "loss" in line] for stage in (2, 3)]
    rows = [tiny.row(f"train-{number:03d}", number) for number in range(COUNT)]
    recomputed = _recomputed(base, rows)
    assert [len(losses) for losses in logged] == [STEPS, STEPS]
    np.testing.assert_allclose(logged, recomputed, rtol=0, atol=1e-5)
    assert not np.allclose(logged[1], logged[1][0], atol=1e-3), "the losses of a training differ"
