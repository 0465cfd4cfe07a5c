"""The options of a UNet's computation, resolved for a device, and the peak memory of the device."""

import contextlib
import ctypes
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from handdata.errors import UserError
from handtrain.compiling import compiled
from handtrain.method.diffusion import Diffusion
from handtrain.method.half import HalfCopy
from handtrain.method.micro_batch import MicroBatch
from handtrain.method.prediction import UNET, Form
from handtrain.method.unet import move_adapters
from handtrain.presets import RunOptions, TrainOptions


def resolved(options: TrainOptions, running: RunOptions, device: torch.device, processes: int = 1) -> TrainOptions:
    """Return the options with `auto` resolved for a device. Raises `UserError` for options it does not support."""
    gpu = device.type == "cuda"
    bf16 = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if options.precision == "auto":
        options = replace(options, precision="bf16" if bf16 else "fp32")
    elif options.precision != "fp32" and gpu and not bf16:
        raise UserError(f"--precision {options.precision}: this GPU does not support bf16; use --precision fp32")
    if options.optimizer == "adam8bit":
        if not gpu:
            raise UserError(f"--optimizer adam8bit needs a CUDA GPU, this is {device}: use --optimizer adam")
        if find_spec("bitsandbytes") is None:
            raise UserError("--optimizer adam8bit needs bitsandbytes: pip install 'hand1000[cuda]'")
    if options.noise_device == "cuda" and not torch.cuda.is_available():
        raise UserError("--noise-device cuda needs a CUDA GPU, which this machine has not: use cpu")
    if running.track != "none" and find_spec(running.track) is None:
        raise UserError(f"--track {running.track} needs {running.track}: pip install {running.track}")
    if running.compile == "cuda-graphs" and not gpu:
        raise UserError(f"--compile cuda-graphs needs a CUDA GPU, this is {device}: use --compile yes, or no")
    graphs(options, running, device, processes)
    return options


def graphs(
    options: TrainOptions, running: RunOptions, device: torch.device, processes: int, fit: str | None = None,
    own_lengths: bool = False,
) -> Literal["on", "off"]:  # fmt: skip
    """Return `--graphs` for a device: `auto` is on where it works. Raises `UserError` where `on` does not.

    With `fit` `auto` is off: the memory of a captured step stays while samples are drawn.
    """
    obstacles = {
        f"needs a CUDA GPU, this is {device}": device.type != "cuda",
        f"needs one process, these are {processes}": processes > 1,
        f"is without a compiler, and --compile is {running.compile}": running.compile != "no",
        "is not for a base whose texts have lengths of their own": own_lengths,
        "is not for --optimizer adam8bit, which counts its steps on the CPU": options.optimizer == "adam8bit",
        "is not for --order images, where every image has an optimizer of its own": options.order == "images",
        "was not tried with --gradient-checkpointing, which reads the state of random numbers":
            running.gradient_checkpointing,
    }  # fmt: skip
    obstacle = next((text for text, present in obstacles.items() if present), None)
    if obstacle and running.graphs == "on":
        raise UserError(f"--graphs on {obstacle}: use --graphs auto, or off")
    unwanted = running.graphs == "off" or (running.graphs == "auto" and fit)
    return "off" if obstacle or unwanted else "on"


def diffusion(
    unet: Any, schedule: Any, scaling: float, options: TrainOptions, running: RunOptions, device: torch.device,
    form: Form = UNET,
) -> Diffusion:  # fmt: skip
    """Return the frozen network on a device with its schedule and settings.

    `options` must be `resolved`, and so must `graphs`.
    """
    low, compiling = options.precision != "fp32", running.compile != "no"
    unet = unet.requires_grad_(False).train()
    # Not where norms are eager: every one copies its input twice there, 85.7 against 80.5 images/s (docs/benchmarks.md)
    fast = low and running.compile in ("yes", "cuda-graphs") and device.type == "cuda"
    if running.channels_last == "yes" or (running.channels_last == "auto" and fast):
        unet = unet.to(memory_format=torch.channels_last)
    if running.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    reduced, half = running.compile == "cuda-graphs", HalfCopy(unet, device) if options.precision == "bf16" else None
    aside = left_aside(options)
    if aside:
        move_adapters(unet, device)
    else:
        unet = unet.to(device)
    call: Any = half
    if compiling:
        call = compiled(half.network if half else unet, running.compile)
        if half:
            call = half.computed_by(call)
    autocast, micro_batch = torch.bfloat16 if low and not half else None, MicroBatch(running.micro_batch)
    return Diffusion(
        unet, schedule, scaling, device, autocast, call, compiling, reduced, running.graphs == "on", micro_batch,
        half=half, aside=aside, form=form,
    )  # fmt: skip


def left_aside(options: TrainOptions) -> bool:
    """Return whether the frozen weights in float32 are not on the device: beneath adapters, a copy computes."""
    return bool(options.lora_rank) and options.precision == "bf16"


def peak_mib(device: torch.device) -> float:
    """Return the peak memory in MiB: of tensors on a CUDA GPU, else of the process; 0 on Windows."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        import resource
    except ImportError:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def restart_peak(device: torch.device) -> None:
    """Reset the peak memory; free memory is returned to the system first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError, AttributeError):  # glibc on Linux; elsewhere the peak is that of the process
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def top_mib(device: torch.device) -> float:
    """Return the peak memory in MiB since `restart_peak`."""
    status = Path("/proc/self/status")
    if device.type == "cuda" or not status.exists():
        return peak_mib(device)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 2**10, 1)
