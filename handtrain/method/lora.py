"""Low-rank adapters for small cards: only they are trained, and they are merged into the UNet when it is exported."""

from typing import Any

import torch

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # the projections of every attention, as LoRA's paper proposes


def add_adapters(unet: Any, rank: int, seed: int) -> None:
    """Add adapters of a rank; the UNet predicts as before until they are trained. Their start depends on the seed."""
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))
    unet.requires_grad_(False)


def require_grad(unet: Any) -> None:
    """Make what is to be trained require gradients: the adapters if there are any, else all weights."""
    adapters = [parameter for name, parameter in unet.named_parameters() if "lora_" in name]
    for parameter in adapters or unet.parameters():
        parameter.requires_grad_(True)


def merge_adapters(unet: Any) -> None:
    """Add what the adapters learnt to the weights beneath them, and take them away."""
    unet.fuse_lora()
    unet.unload_lora()
