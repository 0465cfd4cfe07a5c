"""A model in one .safetensors file with the original names, for ComfyUI, A1111 and diffusers' `from_single_file`."""

from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handtrain.model.base import Base
from handtrain.model.components import canonical
from handtrain.model.formats.header import metadata_of, write_tensors
from handtrain.model.formats.original_names import original
from handtrain.model.formats.single_file import VELOCITY, ZERO_SNR
from handtrain.model.weights import Unusable

# of the weights in a model; else float32
_TYPES: dict[tuple[str, ...], torch.dtype] = {("F16",): torch.float16, ("BF16",): torch.bfloat16}


def write_single_file(out: Path, base: Base, about: dict[str, Any]) -> None:
    """Write the UNet, the VAE and the text encoders in the number format of the model's own files.

    Raises `UserError` for a network that the original layout cannot hold.
    """
    stored = {entry.dtype for weights in base.weights.values() for entry in weights.tensors.values()}
    dtype = _TYPES.get(tuple(stored - {"I64", "I32"}), torch.float32)  # without the numbers of positions
    tensors: dict[str, torch.Tensor] = {}
    for part in base.backbone.NETWORKS:
        config, where = base.configs[part], str(base.path)
        tensors |= original_tensors(part, base.network(part), config, where, dtype, "text_encoder_2" in base.configs)
    if "text_encoder_2" in base.configs:
        tensors |= {name: torch.empty(0, dtype=dtype) for name in _marks(base.configs["scheduler"])}
    resolution = about.get("resolution", base.resolution)
    write_tensors(out, tensors, metadata_of(about, base.configs, out.stem, resolution, adapters=False))


def _marks(scheduler: dict[str, Any]) -> list[str]:
    """Return the names of the empty tensors that describe the schedule of an XL, as ComfyUI reads them."""
    stated = {VELOCITY: scheduler.get("prediction_type") == "v_prediction",
              ZERO_SNR: bool(scheduler.get("rescale_betas_zero_snr"))}  # fmt: skip
    return [name for name, present in stated.items() if present]


def original_tensors(
    part: str, network: Any, config: dict[str, Any], where: str, dtype: torch.dtype, xl: bool = False
) -> dict[str, torch.Tensor]:
    """Return a network's weights by their original names; `xl` for those of Stable Diffusion XL."""
    tensors: dict[str, torch.Tensor] = {}
    joined: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("position_ids"):  # 0, 1, 2, ...
            continue
        try:
            piece = original(part, canonical(name), config, xl)
        except Unusable as error:
            raise UserError(f"MODEL {where}, {part}: {error}: export it with --to diffusers") from None
        stored = tensor.to(dtype)
        if piece.third is not None:
            joined.setdefault(piece.name, {})[piece.third] = stored
        else:
            stored = stored.T.contiguous() if piece.transposed else stored
            tensors[piece.name] = stored[:, :, None, None] if piece.convolution else stored
    return tensors | {name: torch.cat([thirds[n] for n in range(3)]) for name, thirds in joined.items()}
