"""Look at a model while it trains: sample grids and evaluations with fixed seeds, a loss with fixed noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handtrain.method.diffusion import Diffusion, Latents, parts
from handtrain.method.noise import Draw, image_draws, seed_of
from handtrain.model.base import Base
from handtrain.presets import RunOptions, TrainOptions
from handtrain.run.folder import RunFolder
from handtrain.training.early_stopping import Judge, measured
from handtrain.training.training_set import Material

GUIDANCE = 3.0  # the released code's
_VALIDATION_BATCH = 8
_DRAWN_AT_ONCE = 8  # images of an evaluation


@dataclass
class Observer:
    """Looks at the model at the steps that were asked for. Without a validation split there is nothing to look at."""

    run: RunFolder
    base: Base
    options: TrainOptions
    running: RunOptions
    unconditional: torch.Tensor  # (tokens, width), the embedding of ''
    material: Material | None
    judge: Judge | None = None

    def look(self, model: Diffusion, step: int, total: int) -> None:
        """Log a validation loss and draw a sample grid if they are due after so many steps of Stage III."""
        if self.material is None:
            return
        if _due(self.running.validate_every, step, total):
            m = self.material
            loss = validation_loss(model, m.latents, m.mixed, m.image_ids, self.options.seed)
            self.run.log(stage=3, step=step, validation_loss=loss)
        if _due(self.running.sample_every, step, total):
            self._sample(model, self.material, self.run.path / "samples" / f"{step:08d}.png")
        if self.judge and self.judge.due(step, total):
            self.judge.score(step, self._measured(model, self.material, self.judge), model.unet)

    def _measured(self, model: Diffusion, material: Material, judge: Judge) -> dict[str, float]:
        """Return all metrics of the judging, on images that depend on the weights alone."""
        loss = validation_loss(model, material.latents, material.mixed, material.image_ids, self.options.seed)
        vae, images = self.base.vae().to(model.device), []
        for start in range(0, self.options.evaluation_images, _DRAWN_AT_ONCE):
            numbers = range(start, min(start + _DRAWN_AT_ONCE, self.options.evaluation_images))
            rows = [number % len(material) for number in numbers]
            images += sampled(
                model.unet,
                vae,
                self.base.sampling_schedule(),
                material.mixed[rows],
                self.unconditional,
                [seed_of("judge", self.options.seed, number) for number in numbers],
                self.running.sample_steps,
                self.base.check_resolution(self.options.resolution),
            )
        pixels = [np.asarray(image.convert("RGB")) for image in images]
        return {"validation_loss": loss, **measured(pixels, self.run.record["config"]["gesture"], judge)}

    def _sample(self, model: Diffusion, material: Material, path: Path) -> None:
        rows = slice(0, self.running.sample_prompts)
        picture = sample_grid(
            model.unet,
            self.base.vae().to(model.device),
            self.base.sampling_schedule(),
            material.mixed[rows],
            self.unconditional,
            material.texts[rows],
            range(self.running.sample_seeds),
            self.running.sample_steps,
            self.base.check_resolution(self.options.resolution),
        )
        path.parent.mkdir(exist_ok=True)
        picture.save(path.with_suffix(".partial"), format="PNG")
        path.with_suffix(".partial").replace(path)


def validation_loss(
    model: Diffusion, latents: Latents, embeddings: torch.Tensor, image_ids: Sequence[str], seed: int
) -> float:
    """Return the mean noise-prediction loss over images that are not trained on.

    Every image has its own noise and time from the seed, the times spread evenly over the schedule, so that two values
    differ only by the weights. `embeddings` (n, tokens, width) are mixed, not optimised, as in generation.
    """
    timesteps = model.schedule.config.num_train_timesteps
    draw = image_draws(seed, "validation", [(one, 0) for one in image_ids], tuple(latents.mean.shape[1:]), timesteps)
    count = len(image_ids)
    spread = torch.tensor([int((index + 0.5) / count * timesteps) for index in range(count)])
    draw = Draw(draw.posterior, draw.noise, spread)
    with torch.no_grad():
        losses = [
            model.losses(latents[part], draw[part], embeddings[part].to(model.device))
            for part in parts(count, _VALIDATION_BATCH)
        ]
    return float(torch.cat(losses).double().mean())


def sample_grid(
    unet: Any,
    vae: Any,
    schedule: Any,
    embeddings: torch.Tensor,
    unconditional: torch.Tensor,
    texts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    resolution: int,
) -> Any:
    """Return a picture: a row for each text with its words above, a column for each seed (DDIM, guidance 3).

    embeddings (n, tokens, width) are the texts' double-fused ones, unconditional (tokens, width) is that of ''.
    """
    rows = [
        sampled(unet, vae, schedule, one.expand(len(seeds), -1, -1), unconditional, seeds, steps, resolution)
        for one in embeddings
    ]
    return _grid(rows, texts, resolution)


def sampled(
    unet: Any,
    vae: Any,
    schedule: Any,
    embeddings: torch.Tensor,
    unconditional: torch.Tensor,
    seeds: Sequence[int],
    steps: int,
    resolution: int,
) -> list[Any]:
    """Return a Pillow image for each embedding (n, tokens, width) and its seed (DDIM, guidance 3)."""
    from diffusers import StableDiffusionPipeline

    make: Any = StableDiffusionPipeline  # diffusers has no types
    pipeline = make(vae, None, None, unet, schedule, None, None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    images: list[Any] = pipeline(
        prompt_embeds=embeddings,
        negative_prompt_embeds=unconditional.expand(len(seeds), -1, -1),
        height=resolution,
        width=resolution,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images
    return images


def _due(every: int, step: int, total: int) -> bool:
    return bool(every) and (step % every == 0 or step == total)


def _grid(rows: Sequence[Sequence[Any]], texts: Sequence[str], side: int) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    cell, gap = max(side, 192), 8  # mini models draw 64 pixels: too small to look at
    font = ImageFont.load_default(size=14)
    columns = len(rows[0])
    width = columns * (cell + gap) + gap
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
