"""How much a training step computes and keeps, counted without computing it, and how fast the hardware could be."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Dense bf16 FLOP/s from the makers' data sheets, by a part of the name that torch gives; the first that fits counts.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 155e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L4": 121e12,
}


@dataclass(frozen=True)
class Work:
    """What one image costs."""

    stage2: int  # FLOP of a step that optimises its embedding
    stage3: int  # FLOP of a step that trains the UNet
    activations: int  # bytes that a step of Stage III keeps for the way back, in float32


def work_of(config: dict[str, Any], side: int, tokens: int, width: int) -> Work:
    """Count what one image costs a UNet of a configuration, at a latent of `side` x `side` cells.

    FLOP are those of products and convolutions, a multiplication and an addition being two; what gradient checkpointing
    computes twice counts once, and what adapters or a frozen part save is not looked at.
    """
    import diffusers

    make: Any = diffusers.UNet2DConditionModel  # diffusers has no types
    with torch.device("meta"):
        unet = make.from_config(config)
        latent, text = torch.empty(1, config["in_channels"], side, side), torch.empty(1, tokens, width)
    unet.requires_grad_(False)
    stage2, _ = _count(unet, latent, text.requires_grad_(True))
    unet.requires_grad_(True)
    stage3, activations = _count(unet, latent, text.detach())
    return Work(stage2, stage3, activations)


def work_of_folder(folder: Path, side: int, tokens: int, width: int) -> Work:
    """Count what one image costs the UNet of a diffusers folder."""
    return work_of(json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8")), side, tokens, width)


def known_peak(device: torch.device) -> float | None:
    """Return the dense bf16 FLOP/s of a GPU that the table knows, else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def measured_peak(device: torch.device, side: int = 2048, tries: int = 5) -> float:
    """Return the FLOP/s of the best of some float32 matrix products."""
    left, right = (torch.ones(side, side, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return float(2 * side**3 / best)


def _count(unet: Any, latent: torch.Tensor, text: torch.Tensor) -> tuple[int, int]:
    from torch.utils.flop_counter import FlopCounterMode

    weights = {id(parameter) for parameter in unet.parameters()}
    side, tokens = latent.shape[-1], text.shape[1]
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        # Fused attention keeps no matrix of cells x cells or cells x tokens; torch without a device is not fused.
        matrix = base.ndim > 2 and base.shape[-2] > side and base.shape[-1] in (base.shape[-2], tokens)
        if id(base) not in weights and not matrix:
            alive.append(base)  # or another tensor could get its id
            kept[id(base)] = base.nbytes
        return tensor

    alive: list[torch.Tensor] = []
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        predicted = unet(latent, torch.zeros(1, dtype=torch.int64, device="meta"), encoder_hidden_states=text).sample
        predicted.square().mean().backward()
    return counter.get_total_flops(), sum(kept.values())
