"""The FLOP of a training step, counted without computing it, and the peak speed of the hardware."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from handtrain.method.prediction import UNET, Form, Inputs

# Dense bf16 FLOP/s from the makers' data sheets, by words of torch's device name; the first match counts.
PEAKS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
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
    forward: int = 0  # FLOP of a prediction


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
    times = torch.zeros(1, dtype=torch.int64, device="meta")

    def loss(embedding: torch.Tensor) -> torch.Tensor:
        arguments, named = form.arguments(latent, times, embedding, more)
        return form.prediction(network(*arguments, **named)).square().mean()

    network.requires_grad_(False)
    forward = flop_of(lambda: loss(text.detach()))
    stage2 = flop_of(lambda: loss(text.detach().requires_grad_(True)).backward())  # type: ignore[no-untyped-call]
    network.requires_grad_(True)
    stage3 = flop_of(lambda: loss(text.detach()).backward())  # type: ignore[no-untyped-call]
    return Work(stage2, stage3, forward)


def flop_of(compute: Callable[[], object]) -> int:
    """Return the FLOP of a computation."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        compute()
    return int(counter.get_total_flops())


def known_peak(device: torch.device) -> float | None:
    """Return the dense bf16 FLOP/s of a GPU in the table, else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for words, peak in PEAKS.items() if re.search(rf"\b{re.escape(words)}\b", name)), None)


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
