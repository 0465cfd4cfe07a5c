"""Encode photographs and texts once; the results are cached by the hash of all their inputs."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from handdata.errors import UserError
from handdata.progress import bar
from handdata.vision.pixels import PIXELS, UnreadableImage
from handtrain.data.crops import Window, square
from handtrain.data.dataset import Photographs
from handtrain.method.prediction import Texts, stacked
from handtrain.model.base import Base
from handtrain.tensor_cache import TensorCache, fingerprint, key_of


def encode_images(
    photographs: Photographs, windows: Sequence[Window], vae: Any, cache: TensorCache, progress: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (n, c, h, w) of the VAE's posterior for every photograph, on the CPU.

    Images are encoded one by one, so that a cache filled by two runs equals one filled by a single run.
    """
    model, device = fingerprint(vae), _device(vae)
    means, deviations = [], []
    rows = bar(photographs.rows, desc="images", unit="image", show=progress)
    for index, row in enumerate(rows):
        about = {"image": row.sha256, "pixels": PIXELS, "window": asdict(windows[index])}
        key = key_of(what="latent", model=model, device=device.type, **about)
        entry = cache.get(key)
        if entry is None:
            pixels = _square(photographs, index, windows[index])  # (3, size, size)
            with torch.no_grad():
                posterior = vae.encode(torch.from_numpy(pixels)[None].to(device)).latent_dist
            entry = {"mean": posterior.mean[0].cpu(), "deviation": posterior.std[0].cpu()}  # (c, h, w)
            cache.put(key, entry)
        means.append(entry["mean"])
        deviations.append(entry["deviation"])
    return torch.stack(means), torch.stack(deviations)


def encode_texts(texts: Sequence[str], base: Base, device: torch.device, cache: TensorCache, progress: bool) -> Texts:
    """Return encoded texts on the CPU: with CLIP, the last hidden state (n, tokens, width) of padded texts."""
    backbone, tokenizers, encoders = base.backbone, base.tokenizers(), base.text_encoders(device)
    model, entries = "+".join(map(fingerprint, encoders)), []
    for text in bar(texts, desc="texts", unit="text", show=progress):
        ids = backbone.ids(tokenizers, text, base.sizes.tokens, base.settings)
        key = key_of(what="text", model=model, device=device.type, ids=ids)
        entry = cache.get(key)
        if entry is None:
            entry = {name: tensor.cpu().contiguous() for name, tensor in backbone.encode(encoders, ids).items()}
            cache.put(key, entry)
        entries.append(entry)
    return stacked(entries)


def fuse_flat(
    layer: Any, text: torch.Tensor, feature: torch.Tensor, cache: TensorCache, progress: bool
) -> torch.Tensor:
    """Return F (n, tokens, width) of the flat layer, which is drawn once for all prompts that are not in the cache."""
    digests = [hashlib.sha256(embedding.numpy().tobytes()).hexdigest() for embedding in text]
    common = {"what": "flat", **asdict(layer), "first_block": layer.first_block_sha256(), "feature": feature.tolist()}
    keys = [key_of(**common, text=digest) for digest in digests]
    entries = [cache.get(key) for key in keys]
    missing = [index for index, entry in enumerate(entries) if entry is None]
    if missing:
        with bar(total=layer.tokens * layer.width, desc="fusion", unit="row", show=progress) as shown:
            results = layer(text[missing], feature, advance=shown.update)
        for index, fused in zip(missing, results, strict=True):
            entries[index] = {"fused": fused}
            cache.put(keys[index], {"fused": fused.clone()})
    return torch.stack([entry["fused"] for entry in entries if entry])


def _square(photographs: Photographs, index: int, window: Window) -> np.ndarray:
    try:
        return square(photographs.image(index), window)
    except UnreadableImage as error:
        name = photographs.rows[index].image_id
        raise UserError(
            f"image {name} of --dataset {photographs.place} cannot be decoded ({error}): build or download it again"
        ) from None


def _device(model: Any) -> torch.device:
    return torch.device(next(model.parameters()).device)
