"""Sample images during training: DDIM with fixed seeds, and grids of such samples."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from handtrain.method.conditioning import PoseLayers, guided
from handtrain.method.prediction import Texts
from handtrain.model.base import Base

GUIDANCE = 3.0  # the released code's
POSED_GUIDANCE = 2.0  # hands drawn with poses are better at 1.5 to 2 than at 3 (docs/benchmarks.md)


def guidance_of(posed: bool) -> float:
    """Return the scale of guidance for a model that was trained with poses, or without."""
    return POSED_GUIDANCE if posed else GUIDANCE


@dataclass(frozen=True)
class Sampler:
    """A network in training with the other components that sampling needs; no safety checker."""

    base: Base  # with the resolution of the images
    network: Any  # the denoiser
    vae: Any
    unconditional: Texts  # '' as a single text
    steps: int
    pose: PoseLayers | None = None  # attached to the network
    prepared: Callable[[], AbstractContextManager[None]] = nullcontext  # in it a network of 16 bits takes float32

    def __call__(self, texts: Texts, seeds: Sequence[int], poses: torch.Tensor | None = None) -> list[Any]:
        """Return a Pillow image for each text (n rows), seed and, if given, pose (n, 64)."""
        images: list[Any] = self._draw(texts, seeds, poses, "pil")
        return images

    def latents(self, texts: Texts, seeds: Sequence[int]) -> torch.Tensor:
        """Return the scaled latents (n, c, h, w) of such images, on the CPU."""
        drawn: torch.Tensor = self._draw(texts, seeds, None, "latent")
        return drawn.float().cpu()

    def _draw(self, texts: Texts, seeds: Sequence[int], poses: torch.Tensor | None, kind: str) -> Any:
        backbone, device = self.base.backbone, self.vae.device
        pipeline = self.base.pipeline({"vae": self.vae, backbone.TRAINED: self.network})
        drawing: Any = nullcontext()
        guidance = guidance_of(self.pose is not None)
        if self.pose is not None:
            self.pose.poses = None
            if poses is not None:
                drawing = guided(self.pose, poses, guidance, None)
        negative = self.unconditional.repeated(len(seeds))
        positive, negative = (each.to(device, torch.float32) for each in (texts, negative))
        with drawing, self.prepared():
            return pipeline(
                **backbone.call(positive, negative, guidance, 0.0),
                height=self.base.resolution,
                width=self.base.resolution,
                num_inference_steps=self.steps,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type=kind,
            ).images


def decode_in_float32(vae: Any) -> None:
    """Let a VAE in float32 take latents of other types."""
    decode = vae.decode
    vae.decode = lambda latents, **more: decode(latents.float(), **more)


def sample_grid(
    sampler: Sampler,
    prompts: Texts,
    texts: Sequence[str],
    seeds: Sequence[int],
    poses: torch.Tensor | None = None,
) -> Any:
    """Return a Pillow image with a row for each text, which is printed above it, and a column for each seed.

    `prompts` are the encoded texts, with their double-fused embeddings, `poses` (n, 64) those of their rows.
    """
    count = len(seeds)
    of_rows = [None] * len(prompts) if poses is None else [pose.expand(count, -1) for pose in poses]
    rows = [sampler(prompts[number : number + 1].repeated(count), seeds, pose) for number, pose in enumerate(of_rows)]
    side = sampler.base.resolution
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
