"""Pictures that the base model draws of texts without a gesture: trained on, they keep what the base knows."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from handdata.progress import bar
from handtrain.data.crops import window
from handtrain.data.rows import Row
from handtrain.generation.sampling import Sampler
from handtrain.method.conditioning import POSE_NUMBERS
from handtrain.method.diffusion import Latents
from handtrain.method.micro_batch import parts
from handtrain.method.noise import seed_of, shuffled
from handtrain.method.prediction import Texts
from handtrain.model.base import Base
from handtrain.presets import PRIOR_AT_ONCE, TrainOptions, routes
from handtrain.tensor_cache import TensorCache, key_of
from handtrain.training.encode import encode_texts
from handtrain.training.training_set import EncodedSplit, joined_embeddings, merged

STEPS = 20  # DDIM steps of a picture


def gesture_free(rows: Sequence[Row]) -> list[str]:
    """Return the texts of rows without the gesture's phrase."""
    texts = (row.text.replace(row.phrase, " ") for row in rows)
    return [re.sub(r"\s+([,.])|[\s,]+$|^[\s,]+", r"\1", re.sub(r"\s+", " ", text)).strip(" ,") for text in texts]


def prior_split(
    base: Base, texts: Sequence[str], unconditional: Texts, options: TrainOptions, device: torch.device,
    cache: TensorCache, progress: bool,
) -> EncodedSplit | None:  # fmt: skip
    """Return pictures of the base model, drawn once and cached as latents; each has a text, and no pose.

    None without `options.prior`.
    """
    if not options.prior:
        return None
    count = options.prior_images
    chosen = [texts[place % len(texts)] for place in (shuffled(options.seed, "prior", len(texts), 0) * count)[:count]]
    text = encode_texts(chosen, base, device, cache, progress)
    mean = _drawn(base, chosen, text, unconditional, options.seed, device, cache, progress)
    weights = torch.ones_like(mean[:, :1]) if options.hand_weight != 1 else None
    poses = torch.full((count, POSE_NUMBERS), torch.nan) if routes(options) else None
    names = [f"prior-{number:05d}" for number in range(count)]
    side = base.resolution
    more = base.backbone.image_inputs([(side, side)] * count, [window(side, side, side)] * count) | text.more
    latents = Latents(mean, torch.zeros_like(mean), weights, poses, more)
    return EncodedSplit(names, chosen, latents, text.embedding, text.embedding)


def _drawn(
    base: Base, chosen: Sequence[str], text: Texts, unconditional: Texts, seed: int, device: torch.device,
    cache: TensorCache, progress: bool,
) -> torch.Tensor:  # fmt: skip
    """Return the latents (n, c, h, w) of a picture for every text; parts of them that the cache has are not drawn."""
    means: list[torch.Tensor] = []
    sampler: Sampler | None = None
    with bar(total=len(chosen), desc="the base's pictures", unit="image", show=progress) as shown:
        for part in parts(len(chosen), PRIOR_AT_ONCE):
            key = key_of(
                what="prior", model=base.fingerprint(), device=device.type, texts=chosen[part], seed=seed,
                first=part.start, steps=STEPS, resolution=base.resolution,
            )  # fmt: skip
            entry = cache.get(key)
            if entry is None:
                sampler = sampler or Sampler(
                    base, base.denoiser().to(device), base.vae().to(device), unconditional, STEPS
                )
                latents = sampler.latents(text[part], [seed_of("prior", seed, n) for n in range(part.start, part.stop)])
                entry = {"mean": (latents / base.scaling()).contiguous()}
                cache.put(key, entry)
            means.append(entry["mean"])
            shown.update(len(means[-1]))
    return torch.cat(means)


def with_prior(
    split: EncodedSplit, embeddings: torch.Tensor, prior: EncodedSplit | None
) -> tuple[EncodedSplit, torch.Tensor]:
    """Return a split and its embeddings with the base's pictures behind them."""
    if prior is None:
        return split, embeddings
    both = merged([split, prior])
    return replace(both, groups=split.groups), joined_embeddings([embeddings, prior.mixed])
