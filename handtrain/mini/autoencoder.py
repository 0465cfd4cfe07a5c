"""The VAE of the mini Stable Diffusion: 64 x 64 pixels to 16 x 16 x 4 and back."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from handtrain.mini.loop import Course, fit
from handtrain.mini.pictures import SIZE, World

COURSE = Course("autoencoder", steps=1500, batch=24, lr=2e-3)
# A second course that looks at colours: of the sleeves drawn with it 97 % are as asked, without it 57 %.
SECOND = Course("autoencoder-colours", steps=920, batch=24, lr=1.5e-3, warmup=50)
# The decoder alone, for sharp fingers: MediaPipe finds 58 of 100 phone calls that went through the VAE before it and
# 75 after 2,200 steps. The latents stay as they are, and so does a UNet that knows them.
DECODER = Course("autoencoder-decoder", steps=5700, batch=16, lr=1.5e-3)
COURSES = (COURSE, SECOND, DECODER)
# Weights, by course, of the squared error in colour and of that of the pixels; the absolute error alone makes small
# colourful parts grey.
_WEIGHTS = {COURSE.name: (0.0, 0.0), SECOND.name: (10.0, 2.0), DECODER.name: (5.0, 1.0)}
_KL = 1e-6  # weight of the Kullback-Leibler term, as in latent diffusion
_EDGES = 1.0  # weight of the error in differences of neighbours: without it the fingers' borders blur
_COLOUR_PIXELS = 4  # side of the squares whose mean colours are compared
_SCALE_IMAGES = 512  # that the latents' deviation is measured on


def make() -> Any:
    """Return the untrained VAE."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    make: Any = AutoencoderKL  # diffusers has no types
    return make(
        sample_size=SIZE,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def train(vae: Any, world: World, folder: Path, courses: tuple[Course, ...] = COURSES) -> None:
    """Train the VAE and set the scaling factor that gives its latents deviation 1."""
    colour, squared = _WEIGHTS[COURSE.name]

    def loss(rows: list[int], mirrored: list[bool], generator: torch.Generator) -> torch.Tensor:
        images = world.images(rows, mirrored)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            moments = vae.quant_conv(vae.encoder(images)).float()
            mean, logvar = moments.chunk(2, dim=1)
            logvar = logvar.clamp(-30, 20)
            normal = torch.randn(mean.shape, generator=generator)
            made = vae.decode(mean + torch.exp(logvar / 2) * normal).sample.float()
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        value: torch.Tensor = (made - images).abs().mean() + _EDGES * _edge_error(made, images) + _KL * divergence
        if colour or squared:
            value = value + colour * _colour_error(made, images) + squared * (made - images).square().mean()
        return value

    for course in courses:
        colour, squared = _WEIGHTS[course.name]
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(course.name != DECODER.name)
        fit(course, vae, loss, len(world), folder)
        if course.name != DECODER.name:
            vae.register_to_config(scaling_factor=1 / deviation(vae, world))


def deviation(vae: Any, world: World) -> float:
    """Return the standard deviation of the latents of some pictures."""
    rows = list(range(0, len(world), max(1, len(world) // _SCALE_IMAGES)))
    with torch.no_grad():
        means = [
            vae.encode(world.images(part, [False] * len(part))).latent_dist.mean
            for part in (rows[start : start + 32] for start in range(0, len(rows), 32))
        ]
    return round(float(torch.cat(means).std()), 4)


def _edge_error(made: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    difference = made - images
    across, down = difference.diff(dim=3), difference.diff(dim=2)
    return across.abs().mean() + down.abs().mean()


def _colour_error(made: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the squared error of what is left of pictures (b, 3, h, w) without their brightness, in coarse squares."""
    red, green, blue = (made - images).unbind(1)
    opponent = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    return F.avg_pool2d(opponent, _COLOUR_PIXELS).square().mean()
