"""A network that torch.compile made faster: what compiling costs a stage, and whether its faster passes make up for it.

A stage repeats one forward and one backward pass. Before its first step they are made without effect, in eager mode and
compiled: the first compiled passes wait for the compiler, the faster one of the last two of each kind is the time.
Batches of other sizes, such as the last one, are computed in eager mode: each size would be compiled by itself.
"""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from handdata.assets import cache_folder
from handdata.errors import UserError

PASSES = 4  # of each kind: kernels are chosen in the first, the CUDA graphs of `reduce-overhead` recorded in the second
# Kinds of a repeated block that are compiled, each for one size of its input. A UNet has four sizes of blocks, in both
# stages, and --micro-batch may leave a rest; torch's own limit of 8 would leave the others in eager mode.
_KINDS = 64


@dataclass(frozen=True)
class Comparison:
    """Seconds: of compiling, and of a forward and a backward pass in eager mode and compiled."""

    cost: float
    eager: float
    compiled: float

    def text(self, stage: str, passes: int) -> str:
        """Return a sentence about a stage of a number of passes."""
        saved = self.eager - self.compiled
        took = f"compiling for {stage} took {self.cost:.1f} s; a pass takes {1000 * self.compiled:.1f} ms"
        text = f"{took} in place of {1000 * self.eager:.1f}"
        if saved <= 0:
            return f"{text}: it does not pay, use --compile no"
        whole = f"the {passes:,} passes save {saved * passes:.1f} s"
        if saved * passes > self.cost:
            return f"{text}: it pays, {whole}"
        return f"{text}: it does not pay here, {whole}; it would from {int(self.cost / saved) + 1:,} passes on"


def compiled(network: Any, way: str) -> Any:
    """Return a network's compiled form. The network's own calls stay eager unless its repeated `blocks` are compiled.

    The compiler's results are kept in the cache folder, or in TORCHINDUCTOR_CACHE_DIR. Raises `UserError` for `blocks`
    of a network that does not name any.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    if way != "blocks":
        return torch.compile(network, dynamic=False, mode="reduce-overhead" if way == "cuda-graphs" else None)
    from torch._dynamo import config  # imported by torch when something is compiled

    config.recompile_limit = max(config.recompile_limit, _KINDS)
    try:
        network.compile_repeated_blocks(dynamic=False)
    except ValueError:
        kind = type(network).__name__
        raise UserError(f"--compile blocks: {kind} names no repeated blocks; use --compile yes, or no") from None
    return network


def eager(wanted: bool = True) -> Any:
    """Return a context in which nothing is compiled and compiled networks compute as if they were not, if `wanted`."""
    return torch.compiler.set_stance("force_eager") if wanted else nullcontext()  # type: ignore[no-untyped-call]


def compared(one_pass: Callable[[], object], device: torch.device) -> Comparison:
    """Compile a pass by making it, and compare it with the same pass in eager mode."""
    with eager():
        plain = [_seconds(one_pass, device) for _ in range(PASSES)]
    times = [_seconds(one_pass, device) for _ in range(PASSES)]
    steady = min(times[-2:])
    return Comparison(max(sum(times) - PASSES * steady, 0.0), min(plain[-2:]), steady)


def _seconds(one_pass: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    one_pass()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
