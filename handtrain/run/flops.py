"""The FLOP and activations of a training step, counted without computing it, and the peak speed of the hardware."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from handtrain.method.prediction import UNET, Form, Inputs

# Dense bf16 FLOP/s from the makers' data sheets, by a part of torch's device name; the first match counts.
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
    """The cost of one image."""

    stage2: int  # FLOP of a step that optimizes its embedding
    stage3: int  # FLOP of a step that trains the UNet
    activations: int  # bytes that a step of Stage III keeps for the backward pass, in float32


def work_of(config: dict[str, Any], side: int, tokens: int, width: int) -> Work:
    """Count the cost of one image for a UNet of a configuration, with a latent of `side` x `side` cells."""
    import diffusers

    model: Any = diffusers.UNet2DConditionModel  # diffusers has no types
    with torch.device("meta"):
        unet = model.from_config(config)
        latent, text = torch.empty(1, config["in_channels"], side, side), torch.empty(1, tokens, width)
    return counted(unet, UNET, latent, text, {})


def counted(network: Any, form: Form, latent: torch.Tensor, text: torch.Tensor, more: Inputs) -> Work:
    """Count the cost of one image for a network on `meta`, with a latent (1, c, h, w) and a text (1, tokens, width).

    FLOP are those of matrix products and convolutions, with a multiplication and an addition as two. The second
    forward pass of gradient checkpointing is not counted, and the savings of adapters or frozen parts are ignored.
    """
    network.requires_grad_(False)
    stage2, _ = _count(network, form, latent, text.detach().requires_grad_(True), more)
    network.requires_grad_(True)
    stage3, activations = _count(network, form, latent, text.detach(), more)
    return Work(stage2, stage3, activations)


def known_peak(device: torch.device) -> float | None:
    """Return the dense bf16 FLOP/s of a GPU in the table, else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def measured_peak(device: torch.device, side: int = 2048, tries: int = 5) -> float:
    """Return the FLOP/s of the fastest of several float32 matrix products."""
    left, right = (torch.ones(side, side, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return float(2 * side**3 / best)


def _count(network: Any, form: Form, latent: torch.Tensor, text: torch.Tensor, more: Inputs) -> tuple[int, int]:
    from torch.utils.flop_counter import FlopCounterMode

    weights = {id(parameter) for parameter in network.parameters()}
    side, tokens = latent.shape[-1], text.shape[1]
    kept: dict[int, torch.Tensor] = {}  # by id; the tensors stay alive: otherwise another tensor could get the same id

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        # Fused attention keeps no matrix of cells x cells or cells x tokens; torch without a device is not fused.
        matrix = base.ndim > 2 and base.shape[-2] > side and base.shape[-1] in (base.shape[-2], tokens)
        if id(base) not in weights and not matrix:
            kept[id(base)] = base
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        arguments, named = form.arguments(latent, torch.zeros(1, dtype=torch.int64, device="meta"), text, more)
        form.prediction(network(*arguments, **named)).square().mean().backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops(), sum(base.nbytes for base in kept.values())
