"""Encode photographs and texts once; the results are cached by the hash of all their inputs."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from handdata.errors import UserError
from handdata.progress import bar
from handdata.vision.pixels import PIXELS, UnreadableImage
from handtrain.data.crops import Window, square
from handtrain.data.dataset import Photographs
from handtrain.method.micro_batch import parts
from handtrain.method.prediction import Texts, stacked
from handtrain.model.base import Base
from handtrain.run.footprint import images_together
from handtrain.tensor_cache import TensorCache, fingerprint, key_of


def encode_images(
    photographs: Photographs, windows: Sequence[Window], vae: Any, cache: TensorCache, progress: bool,
    together: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return mean and standard deviation (n, c, h, w) of the VAE's posterior for every photograph, on the CPU.

    A CPU encodes images one by one, a GPU in fixed groups (`together`: their size). Either is an entry of the cache:
    the images next to one in a batch change its last bits, and a cache filled by two runs equals one filled by a single
    run.
    """
    model, device = fingerprint(vae), _device(vae)
    size = together or (images_together(windows[0].size) if device.type == "cuda" else 1)
    found: dict[str, list[torch.Tensor]] = {"mean": [], "deviation": []}
    with bar(total=len(photographs.rows), desc="images", unit="image", show=progress) as shown:
        for part in parts(len(photographs.rows), size):
            numbers = range(part.start, part.stop)
            about = [
                {"image": photographs.rows[n].sha256, "pixels": PIXELS, "window": asdict(windows[n])} for n in numbers
            ]
            which: dict[str, Any] = about[0] if size == 1 else {"images": about}
            key = key_of(what="latent", model=model, device=device.type, **which)
            entry = cache.get(key)
            if entry is None:
                squares = [torch.from_numpy(_square(photographs, n, windows[n])) for n in numbers]
                with torch.no_grad():
                    posterior = vae.encode(torch.stack(squares).to(device)).latent_dist
                entry = {"mean": posterior.mean.cpu().contiguous(), "deviation": posterior.std.cpu().contiguous()}
                if size == 1:  # an entry of a single image has no batch
                    entry = {name: tensor[0] for name, tensor in entry.items()}
                cache.put(key, entry)
            for name, tensors in found.items():
                tensors.append(entry[name][None] if size == 1 else entry[name])
            shown.update(len(numbers))
    return torch.cat(found["mean"]), torch.cat(found["deviation"])


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
    layer: Any, text: torch.Tensor, feature: torch.Tensor, cache: TensorCache, progress: bool,
    device: torch.device | str = "cpu", check: Callable[[], None] = lambda: None,
) -> torch.Tensor:  # fmt: skip
    """Return F (n, tokens, width) of the flat layer on the CPU; it is drawn once for all prompts not in the cache.

    `device` computes the products. The entries of a GPU differ from those of a CPU by rounding and have other keys.
    `check` is called after every block of the layer; an error of it ends the call.
    """
    digests = [hashlib.sha256(embedding.numpy().tobytes()).hexdigest() for embedding in text]
    common = {"what": "flat", **asdict(layer), "first_block": layer.first_block_sha256(), "feature": feature.tolist()}
    kind = torch.device(device).type
    common |= {} if kind == "cpu" else {"device": kind}
    keys = [key_of(**common, text=digest) for digest in digests]
    entries = [cache.get(key) for key in keys]
    missing = [index for index, entry in enumerate(entries) if entry is None]
    if missing:
        with bar(total=layer.tokens * layer.width, desc="fusion", unit="row", show=progress) as shown:

            def advance(rows: int) -> None:
                check()
                shown.update(rows)

            results = layer(text[missing], feature, advance=advance, device=device)
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
