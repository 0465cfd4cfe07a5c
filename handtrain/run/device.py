"""How the UNet computes on a device: precision, layout, compilation, checkpointing."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from handdata.errors import UserError
from handtrain.method.diffusion import Diffusion
from handtrain.presets import RunOptions, TrainOptions


def resolved(options: TrainOptions, running: RunOptions, device: torch.device) -> TrainOptions:
    """Return the options with `auto` decided for a device. Raises `UserError` for what the device cannot do."""
    gpu = device.type == "cuda"
    if options.precision == "auto":
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        options = replace(options, precision=precision)  # type: ignore[arg-type]
    elif options.precision == "bf16" and gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("--precision bf16 is nothing that this GPU can do: use --precision fp32")
    if options.optimizer == "adam8bit":
        if not gpu:
            raise UserError(f"--optimizer adam8bit needs a CUDA GPU, this is {device}: use --optimizer adam")
        if find_spec("bitsandbytes") is None:
            raise UserError("--optimizer adam8bit needs bitsandbytes: pip install 'hand1000[cuda]'")
    if running.compile == "cuda-graphs" and not gpu:
        raise UserError(f"--compile cuda-graphs needs a CUDA GPU, this is {device}: use --compile yes, or no")
    return options


def diffusion(
    unet: Any, schedule: Any, scaling: float, options: TrainOptions, running: RunOptions, device: torch.device
) -> Diffusion:
    """Return the frozen UNet on a device with all that belongs to it. `options` must be `resolved`."""
    half = options.precision == "bf16"
    unet = unet.to(device).requires_grad_(False).train()
    if running.channels_last == "yes" or (running.channels_last == "auto" and half and device.type == "cuda"):
        unet = unet.to(memory_format=torch.channels_last)
    if running.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    graphs = running.compile == "cuda-graphs"
    call = None
    if running.compile != "no":
        call = torch.compile(unet, dynamic=False, mode="reduce-overhead" if graphs else None)
    return Diffusion(unet, schedule, scaling, device, torch.bfloat16 if half else None, call, graphs)
