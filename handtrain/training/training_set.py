"""What Stages II and III train on, as tensors: latents, loss weights and embeddings of the images and texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from handtrain.data.dataset import Photographs, hand_weights, row_window
from handtrain.method.diffusion import Latents
from handtrain.method.fusion import FlatFusion, mix
from handtrain.method.gesture import NUMBERS
from handtrain.model.base import Base
from handtrain.presets import TrainOptions
from handtrain.tensor_cache import TensorCache
from handtrain.training.encode import encode_images, encode_texts, fuse_flat


@dataclass(frozen=True)
class Material:
    """One split on the CPU, in the order of its rows."""

    image_ids: list[str]
    texts: list[str]
    latents: Latents
    text: torch.Tensor  # (n, tokens, width), T
    mixed: torch.Tensor  # (n, tokens, width), E = lam * T + (1 - lam) * F; T itself until a token layer is trained

    def __len__(self) -> int:
        return len(self.image_ids)


def flat_layer(base: Base, options: TrainOptions) -> FlatFusion:
    """Return the fixed layer of a run."""
    return FlatFusion(options.seed, base.tokens, base.width, NUMBERS)


def materials(
    splits: Sequence[Photographs],
    base: Base,
    options: TrainOptions,
    feature: torch.Tensor,
    device: torch.device,
    cache: TensorCache,
    progress: bool,
) -> tuple[list[Material], torch.Tensor]:
    """Encode splits; return them and the embedding of '' (tokens, width).

    The VAE, the text encoder and the flat layer each see all splits in one go and are gone before the next comes.
    """
    resolution = base.check_resolution(options.resolution)
    vae = base.vae().to(device)
    latents = [_latents(split, vae, resolution, base, options, cache, progress) for split in splits]
    del vae
    texts = [[row.text for row in split.rows] for split in splits]
    everything = [text for of_split in texts for text in of_split] + [""]
    text = encode_texts(everything, base.tokenizer(), base.text_encoder().to(device), cache, progress)
    prompts, unconditional = text[:-1], text[-1]
    mixed = prompts
    if options.fusion == "flat" and options.lam < 1:
        mixed = mix(prompts, fuse_flat(flat_layer(base, options), prompts, feature, cache, progress), options.lam)
    sizes = [len(of_split) for of_split in texts]
    parts = zip(splits, texts, latents, torch.split(prompts, sizes), torch.split(mixed, sizes), strict=True)
    made = [Material([row.image_id for row in split.rows], *rest) for split, *rest in parts]  # type: ignore[arg-type]
    return made, unconditional


def _latents(
    split: Photographs,
    vae: Any,
    resolution: int,
    base: Base,
    options: TrainOptions,
    cache: TensorCache,
    progress: bool,
) -> Latents:
    windows = [row_window(row, resolution, options.crop) for row in split.rows]
    mean, deviation = encode_images(split, windows, vae, cache, progress)
    if options.hand_weight == 1:
        return Latents(mean, deviation)
    height, width = mean.shape[2:]
    maps = [
        hand_weights(cut.box(row.box) if row.box else None, height, width, options.hand_weight)
        for row, cut in zip(split.rows, windows, strict=True)
    ]
    return Latents(mean, deviation, torch.stack([torch.from_numpy(one) for one in maps]))
