"""The difference of two UNets in pictures: the same prompts and noise, drawn by both."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from handtrain.generation.sampling import GUIDANCE
from handtrain.method.noise import seed_of
from handtrain.model.base import Base

_STEPS = 20  # DDIM steps of a picture


def pixel_difference(
    base: Base, unets: Sequence[Any], phrases: Sequence[str], count: int, resolution: int, device: torch.device
) -> float:
    """Return the mean absolute difference, in 0 to 255, of `count` pictures by each of two UNets.

    The prompts are `a person PHRASE` of the phrases in turn, with the plain text embedding and without a pose: what
    other programs draw.
    """
    vae, encoders, tokenizers = base.vae(), base.text_encoders(), base.tokenizers()
    parts = {**dict(zip(base.backbone.TOKENIZERS, encoders, strict=True)), "vae": vae}
    parts |= dict(zip(base.backbone.TOKENIZERS.values(), tokenizers, strict=True))
    prompts = [f"a person {phrases[number % len(phrases)]}" for number in range(count)]
    drawn = []
    for unet in unets:
        pipeline = base.pipeline({**parts, base.backbone.TRAINED: unet}).to(device)
        size = {"height": resolution, "width": resolution}
        settings = {**size, "num_inference_steps": _STEPS, "guidance_scale": GUIDANCE, "output_type": "np"}
        noise = [torch.Generator().manual_seed(seed_of("export", number)) for number in range(count)]
        images = [
            pipeline(prompt, generator=generator, **settings).images[0]
            for prompt, generator in zip(prompts, noise, strict=True)
        ]
        drawn.append(torch.from_numpy(np.stack(images)))
        unet.cpu()
    return float((drawn[0] - drawn[1]).abs().mean() * 255)
