"""The number format, the number of images at once and the pictures under way of a generation."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal

import torch

from handtrain.method.micro_batch import MicroBatch
from handtrain.options import GenerateOptions

_AUTO_CPU, _AUTO_GPU = 4, 16  # images of --batch auto


def number_format(options: GenerateOptions, device: torch.device) -> str:
    """Return the precision of the options, with `auto` resolved for a device."""
    if options.precision != "auto":
        return options.precision
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if gpu else "fp32"


def batches(batch: int | Literal["auto"], device: torch.device) -> MicroBatch:
    """Return the number of images at once, which is halved when memory runs out if it is `auto`."""
    sizes = MicroBatch(batch)
    if batch == "auto":
        sizes.size = _AUTO_GPU if device.type == "cuda" else _AUTO_CPU
    return sizes


def wait(writing: Sequence[Future[None]]) -> None:
    """Wait until the pictures are written. Raises the error of the first that cannot be."""
    for written in writing:
        written.result()
