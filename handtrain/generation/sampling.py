"""Sample images during training: DDIM with fixed seeds, and grids of such samples."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from handtrain.method.conditioning import PoseLayers, guided

GUIDANCE = 3.0  # the released code's
POSED_GUIDANCE = 2.0  # hands drawn with poses are better at 1.5 to 2 than at 3 (docs/benchmarks.md)


def guidance_of(posed: bool) -> float:
    """Return the scale of guidance for a model that was trained with poses, or without."""
    return POSED_GUIDANCE if posed else GUIDANCE


@dataclass(frozen=True)
class Sampler:
    """A UNet in training with the other components that sampling needs; no safety checker."""

    unet: Any
    vae: Any
    schedule: Any  # diffusers DDIMScheduler
    unconditional: torch.Tensor  # (tokens, width), the embedding of ''
    steps: int
    resolution: int  # pixels
    pose: PoseLayers | None = None  # attached to the UNet

    def __call__(self, embeddings: torch.Tensor, seeds: Sequence[int], poses: torch.Tensor | None = None) -> list[Any]:
        """Return a Pillow image for each embedding (n, tokens, width), seed and, if given, pose (n, 64)."""
        images: list[Any] = self._draw(embeddings, seeds, poses, "pil")
        return images

    def latents(self, embeddings: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Return the scaled latents (n, c, h, w) of such images, on the CPU."""
        drawn: torch.Tensor = self._draw(embeddings, seeds, None, "latent")
        return drawn.float().cpu()

    def _draw(self, embeddings: torch.Tensor, seeds: Sequence[int], poses: torch.Tensor | None, kind: str) -> Any:
        make: Any = StableDiffusionPipeline  # diffusers has no types
        pipeline = make(self.vae, None, None, self.unet, self.schedule, None, None, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        drawing: Any = nullcontext()
        guidance = guidance_of(self.pose is not None)
        if self.pose is not None:
            self.pose.poses = None
            if poses is not None:
                drawing = guided(self.pose, poses, guidance, None)
        with drawing:
            return pipeline(
                prompt_embeds=embeddings,
                negative_prompt_embeds=self.unconditional.expand(len(seeds), -1, -1),
                height=self.resolution,
                width=self.resolution,
                num_inference_steps=self.steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type=kind,
            ).images


def sample_grid(
    sampler: Sampler,
    embeddings: torch.Tensor,
    texts: Sequence[str],
    seeds: Sequence[int],
    poses: torch.Tensor | None = None,
) -> Any:
    """Return a Pillow image with a row for each text, which is printed above it, and a column for each seed.

    embeddings (n, tokens, width) are the double-fused embeddings of the texts, `poses` (n, 64) those of their rows.
    """
    count = len(seeds)
    of_rows = [None] * len(embeddings) if poses is None else [pose.expand(count, -1) for pose in poses]
    rows = [
        sampler(embedding.expand(count, -1, -1), seeds, pose)
        for embedding, pose in zip(embeddings, of_rows, strict=True)
    ]
    side = sampler.resolution
    cell, gap = max(side, 192), 8  # samples of mini models have 64 pixels: too small to look at
    font = ImageFont.load_default(size=14)
    width = len(seeds) * (cell + gap) + gap
    lines = [_wrapped(text, font, width - 2 * gap) for text in texts]
    heights = [18 * len(line) + gap + cell + gap for line in lines]
    picture = Image.new("RGB", (width, sum(heights) + gap), "white")
    draw = ImageDraw.Draw(picture)
    top = gap
    for images, line, height in zip(rows, lines, heights, strict=True):
        draw.multiline_text((gap, top), "\n".join(line), fill="black", font=font, spacing=2)
        for column, image in enumerate(images):
            enlarged = image.resize((cell, cell), Image.Resampling.NEAREST if cell > side else Image.Resampling.LANCZOS)
            picture.paste(enlarged, (gap + column * (cell + gap), top + height - cell - gap))
        top += height
    return picture


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
