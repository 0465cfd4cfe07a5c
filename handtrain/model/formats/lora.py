"""LoRA files: low-rank changes of a network's layers, as diffusers and as sd-scripts (kohya) name them.

A layer's change is up x down, with a scale of 1: alpha equals the rank. sd-scripts builds its UNet with the modules of
diffusers, so that its names are diffusers' with underscores; that of Stable Diffusion XL has the original modules. It
trains the layers inside the blocks, and so do we.
Source: networks/lora.py, library/original_unet.py and library/sdxl_original_unet.py of kohya-ss/sd-scripts.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from handtrain.method.unet import TARGETS
from handtrain.model.formats.header import write_tensors
from handtrain.model.formats.original_names import UNET, original

Factors: TypeAlias = dict[str, tuple[torch.Tensor, torch.Tensor]]  # by layer: down (r, in[, k, k]), up (out, r[, 1, 1])
Format: TypeAlias = Literal["diffusers", "kohya"]
Layers: TypeAlias = Literal["attention", "all"]

_ATTENTION = re.compile(rf".*\.(attn\d|attention)\.({'|'.join(map(re.escape, TARGETS))})")
_IN_BLOCKS = re.compile(r"(down_blocks|up_blocks|mid_block|layers|noise_refiner|context_refiner)\..+")


def layers_of(unet: Any, layers: Layers) -> dict[str, torch.nn.Module]:
    """Return the layers by name: the projections of every attention, or all linear and convolution layers in blocks."""
    pattern = _ATTENTION if layers == "attention" else _IN_BLOCKS
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {n: module for n, module in unet.named_modules() if isinstance(module, kinds) and pattern.fullmatch(n)}


def adapters_of(unet: Any) -> Factors:
    """Return the adapters of a UNet in training, on the CPU."""
    weights = {name: tensor.detach().cpu() for name, tensor in unet.named_parameters() if ".lora_" in name}
    names = sorted({name.partition(".lora_")[0] for name in weights})
    return {name: (_only(weights, f"{name}.lora_A."), _only(weights, f"{name}.lora_B.")) for name in names}


def named(factors: Factors, form: Format, network: str, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a LoRA file by name; sd-scripts also stores a scalar alpha for each layer.

    `network` is the component (unet, or transformer), `config` its configuration.
    """
    tensors: dict[str, torch.Tensor] = {}
    for layer, (down, up) in factors.items():
        if form == "diffusers":
            tensors |= {f"{network}.{layer}.lora_A.weight": down, f"{network}.{layer}.lora_B.weight": up}
        else:
            name = "lora_unet_" + _module(layer, config).replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = torch.tensor(float(len(down)), dtype=down.dtype)
    return tensors


def write_lora(
    path: Path, factors: Factors, form: Format, network: str, config: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Write a LoRA file with the metadata of its model; `config` is the configuration of the `network`."""
    tensors = named(factors, form, network, config)
    if network != "unet":  # whose names sd-scripts knows
        write_tensors(path, tensors, metadata)
        return
    rank = len(next(iter(factors.values()))[0])
    second = metadata["modelspec.architecture"].startswith("stable-diffusion-v2")
    version = f"sd_v{2 if second else 1}{'_v' if metadata['modelspec.prediction_type'] == 'v' else ''}"
    version = "sdxl_base_v1-0" if _is_xl(config) else version
    of_scripts = {
        "ss_base_model_version": version, "ss_v2": str(second), "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank), "ss_network_alpha": str(float(rank)),
    }  # fmt: skip
    write_tensors(path, tensors, {**metadata, **of_scripts})


def read_lora(path: Path, network: str = "unet") -> Factors:
    """Return the factors of a file in diffusers' format. Raises `ValueError` or `OSError` if it is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    layers = sorted({name.removeprefix(f"{network}.").partition(".lora_")[0] for name in tensors})
    try:
        return {n: (tensors[f"{network}.{n}.lora_A.weight"], tensors[f"{network}.{n}.lora_B.weight"]) for n in layers}
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from None


def change(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return a layer's change in the shape of its weight: (out, in) or (out, in, k, k)."""
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _is_xl(unet: Mapping[str, Any]) -> bool:
    return unet.get("addition_embed_type") == "text_time"


def _module(layer: str, unet: Mapping[str, Any]) -> str:
    """Return the name of a layer in the UNet of sd-scripts."""
    if not _is_xl(unet):
        return layer
    return original("unet", f"{layer}.weight", dict(unet)).name.removeprefix(UNET).removesuffix(".weight")


def _only(weights: Mapping[str, torch.Tensor], prefix: str) -> torch.Tensor:
    (found,) = [tensor for name, tensor in weights.items() if name.startswith(prefix)]
    return found
