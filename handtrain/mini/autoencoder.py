"""The VAE of the mini Stable Diffusion: 64 x 64 pixels to 16 x 16 x 4 and back."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from handtrain.mini.loop import Schedule, fit
from handtrain.mini.pictures import SIZE, World

SCHEDULE = Schedule("autoencoder", steps=1500, batch=24, lr=2e-3)
# A second schedule with a loss on colours: with it 97 % of the generated sleeves have the requested colour, without
# it 57 %.
SECOND = Schedule("autoencoder-colours", steps=920, batch=24, lr=1.5e-3, warmup=50)
# The decoder alone, for sharp fingers: of 100 phone calls that went through the VAE, MediaPipe finds 58 before this
# schedule and 75 after 2,200 steps of it. The latents do not change, so a UNet trained on them remains valid.
DECODER = Schedule("autoencoder-decoder", steps=5700, batch=16, lr=1.5e-3)
SCHEDULES = (SCHEDULE, SECOND, DECODER)
# Weights, by schedule, of the squared errors in colour and of the pixels; the absolute error alone makes small
# colourful parts grey.
_WEIGHTS = {SCHEDULE.name: (0.0, 0.0), SECOND.name: (10.0, 2.0), DECODER.name: (5.0, 1.0)}
_KL = 1e-6  # weight of the Kullback-Leibler term, as in latent diffusion
_EDGES = 1.0  # weight of the error in differences of adjacent pixels: without it the edges of fingers blur
_COLOUR_PIXELS = 4  # side of the squares whose mean colours are compared
_SCALE_IMAGES = 512  # images on which the latents' deviation is measured


def make() -> Any:
    """Return the untrained VAE."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    network: Any = AutoencoderKL  # diffusers has no types
    return network(
        sample_size=SIZE,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def train(vae: Any, world: World, folder: Path, schedules: tuple[Schedule, ...] = SCHEDULES) -> None:
    """Train the VAE and set the scaling factor that gives its latents deviation 1."""
    colour, squared = _WEIGHTS[SCHEDULE.name]

    def loss(rows: list[int], mirrored: list[bool], generator: torch.Generator) -> torch.Tensor:
        images = world.images(rows, mirrored)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            moments = vae.quant_conv(vae.encoder(images)).float()
            mean, logvar = moments.chunk(2, dim=1)
            logvar = logvar.clamp(-30, 20)
            normal = torch.randn(mean.shape, generator=generator)
            decoded = vae.decode(mean + torch.exp(logvar / 2) * normal).sample.float()
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        value: torch.Tensor = (decoded - images).abs().mean() + _EDGES * _edge_error(decoded, images) + _KL * divergence
        if colour or squared:
            value = value + colour * _colour_error(decoded, images) + squared * (decoded - images).square().mean()
        return value

    for schedule in schedules:
        colour, squared = _WEIGHTS[schedule.name]
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(schedule.name != DECODER.name)
        fit(schedule, vae, loss, len(world), folder)
        if schedule.name != DECODER.name:
            vae.register_to_config(scaling_factor=1 / deviation(vae, world))


def deviation(vae: Any, world: World) -> float:
    """Return the standard deviation of the latents of up to about 512 pictures."""
    rows = list(range(0, len(world), max(1, len(world) // _SCALE_IMAGES)))
    with torch.no_grad():
        means = [
            vae.encode(world.images(part, [False] * len(part))).latent_dist.mean
            for part in (rows[start : start + 32] for start in range(0, len(rows), 32))
        ]
    return round(float(torch.cat(means).std()), 4)


def _edge_error(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    difference = decoded - images
    across, down = difference.diff(dim=3), difference.diff(dim=2)
    return across.abs().mean() + down.abs().mean()


def _colour_error(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the squared error of the colours of pictures (b, 3, h, w) without their brightness, in coarse squares."""
    red, green, blue = (decoded - images).unbind(1)
    opponent = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    return F.avg_pool2d(opponent, _COLOUR_PIXELS).square().mean()
