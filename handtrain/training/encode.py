"""Encode photographs and texts once, and keep what came out, keyed by everything that it was made of."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from handtrain.data.dataset import Photographs, Window, square
from handtrain.model.base import fingerprint
from handtrain.tensor_cache import TensorCache, key_of


def encode_images(
    photographs: Photographs, windows: Sequence[Window], vae: Any, cache: TensorCache, progress: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (n, c, h, w) of the VAE's posterior for every photograph, on the CPU.

    Images go through the VAE one by one: only so does a cache filled in two goes equal one filled in one.
    """
    from tqdm import tqdm

    model, device = fingerprint(vae), _device(vae)
    means, deviations = [], []
    bar = tqdm(photographs.rows, desc="images", unit="image", disable=None if progress else True)
    for index, row in enumerate(bar):
        key = key_of(what="latent", model=model, device=device.type, image=row.sha256, window=asdict(windows[index]))
        found = cache.get(key)
        if found is None:
            pixels = square(photographs.image(index), windows[index])  # (3, size, size)
            with torch.no_grad():
                posterior = vae.encode(torch.from_numpy(pixels)[None].to(device)).latent_dist
            found = {"mean": posterior.mean[0].cpu(), "deviation": posterior.std[0].cpu()}  # (c, h, w)
            cache.put(key, found)
        means.append(found["mean"])
        deviations.append(found["deviation"])
    return torch.stack(means), torch.stack(deviations)


def encode_texts(
    texts: Sequence[str], tokenizer: Any, text_encoder: Any, cache: TensorCache, progress: bool
) -> torch.Tensor:
    """Return the text encoder's last hidden state (n, tokens, width) of padded texts, layer-normed, on the CPU."""
    from tqdm import tqdm

    model, device = fingerprint(text_encoder), _device(text_encoder)
    tokens = text_encoder.config.max_position_embeddings
    embeddings = []
    for text in tqdm(texts, desc="texts", unit="text", disable=None if progress else True):
        ids = tokenizer(text, padding="max_length", max_length=tokens, truncation=True).input_ids
        key = key_of(what="text", model=model, device=device.type, ids=ids)
        found = cache.get(key)
        if found is None:
            with torch.no_grad():
                state = text_encoder(torch.tensor([ids], device=device))[0]  # (1, tokens, width)
            found = {"embedding": state[0].cpu().contiguous()}
            cache.put(key, found)
        embeddings.append(found["embedding"])
    return torch.stack(embeddings)


def fuse_flat(
    layer: Any, text: torch.Tensor, feature: torch.Tensor, cache: TensorCache, progress: bool
) -> torch.Tensor:
    """Return F (n, tokens, width) of the flat layer; one pass of it for all prompts that the cache does not hold."""
    digests = [hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in text]
    common = {"what": "flat", **asdict(layer), "first_block": layer.first_block_sha256(), "feature": feature.tolist()}
    keys = [key_of(**common, text=digest) for digest in digests]
    fused = torch.empty_like(text)
    missing = []
    for index, key in enumerate(keys):
        found = cache.get(key)
        if found is None:
            missing.append(index)
        else:
            fused[index] = found["fused"]
    if missing:
        fused[missing] = layer(text[missing], feature, progress=progress)
    for index in missing:
        cache.put(keys[index], {"fused": fused[index].clone()})
    return fused


def _device(model: Any) -> torch.device:
    return torch.device(next(model.parameters()).device)
