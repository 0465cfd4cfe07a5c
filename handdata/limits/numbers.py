"""The range of every number that a user can give: flags of both programs, keys of a recipe, arguments in Python.

A number without a row here may be 0 to 2,147,483,647, a fraction 0 to a billion. `Class.field` comes before `field`.
"""

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any

from handdata.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`; without `least` itself if it is `open`."""

    least: float
    most: float
    open: bool = False

    def fault(self, value: float) -> str | None:
        """Return why a number is out of range, None for one within it."""
        if not math.isfinite(value):
            return "must be a finite number"
        if value < self.least or (self.open and value == self.least):
            return f"must be above {self.least:,}" if self.open else f"must be at least {self.least:,}"
        return f"must be at most {self.most:,}" if value > self.most else None


_WHOLE, _FRACTION, _SHARE = Range(0, 2**31 - 1), Range(0, 1e9), Range(0, 1)
_SOME, _SECONDS, _RATE, _PROCESSES = Range(1, 2**31 - 1), Range(0, 86_400, open=True), Range(0, 100, open=True), 1024
_SEED = Range(0, 2**63 - 1)  # what TOML, Parquet and torch hold
_STEPS = Range(1, 1000)  # Stable Diffusion is trained with 1,000 time steps

RANGES: dict[str, Range] = {
    "seed": _SEED, "seeds": _SEED,
    # handdata
    "second_hand": _SHARE, "spare": Range(0, 100), "min_hand": _SHARE, "in_box": _SHARE,
    "short_side": Range(0, 65_500),  # JPEG holds 65,535 px
    "quality": Range(1, 100),
    "connections": Range(1, _PROCESSES), "attempts": Range(1, 1000), "timeout": _SECONDS, "backoff": Range(0, 3600),
    "largest": Range(1, 2**40), "group_bytes": Range(1, 2**40), "file_bytes": Range(1, 2**40),
    "hands": Range(1, 100), "detection": _SHARE, "presence": _SHARE, "min_side": Range(0, 8192),
    "threads": Range(0, _PROCESSES), "cpus": Range(0, _PROCESSES), "gpus": Range(-1, _PROCESSES),
    "StageResources.workers": Range(0, _PROCESSES), "Build.workers": Range(1, _PROCESSES),
    "Render.workers": Range(0, _PROCESSES),
    "batch": Range(1, 65_536), "max_new_tokens": Range(1, 512),
    "retries": Range(0, 100), "temperature": Range(0, 2), "max_tokens": Range(1, 32_768),
    "parallel": Range(1, 255),  # llama.cpp holds 256 sequences, one of which is the common beginning
    "gpu_layers": Range(-1, 2**31 - 1), "near_duplicate": Range(0, 64),
    **dict.fromkeys(("Joints.index", "Joints.middle", "Joints.ring", "Joints.little"), Range(-30, 120)),  # degrees
    "Joints.spread": Range(-40, 40), "View.turn": Range(-360, 360), "View.lean": Range(-360, 360),
    # handtrain
    "lam": _SHARE, "mu": _SHARE, "eta": _SHARE, "guidance": Range(-1000, 1000), "resolution": Range(0, 16_384),
    "hand_weight": Range(0, 1e6, open=True), "embedding_lr": _RATE, "unet_lr": _RATE, "fusion_lr": _RATE,
    "embedding_batch": _SOME, "unet_batch": _SOME, "fusion_batch": _SOME, "evaluation_images": _SOME,
    "lora_rank": Range(0, 65_536), "GenerateOptions.steps": _STEPS, "sample_steps": _STEPS, "sample_prompts": _SOME,
    "sample_seeds": _SOME, "validation_images": _SOME, "Bench.steps": _SOME, "images": _SOME,
    "pose_guidance": Range(0, 1000), "pose_rate": Range(0, 1e6, open=True), "prior": _SHARE, "prior_images": _SOME,
    "pose_dropout": _SHARE, "text_dropout": _SHARE, "ema": _SHARE,
    "bootstrap": Range(2, 1_000_000), "pictures": Range(0, 10_000), "Judge.workers": Range(0, _PROCESSES),
    "Judge.crops": Range(0, 10_000), "Judge.ask": Range(0, 100_000),
    "Export.images": Range(0, 10_000), "Export.rank": Range(1, 65_536),
}  # fmt: skip


def require_ranges(options: Any, prefix: str = "--") -> None:
    """Check every number in a dataclass of options, nested ones included. Raises `UserError` naming the flag."""
    hints = typing.get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            require_ranges(value, prefix if _unnamed(hints[field.name]) else f"{prefix}{_flag(field.name)}.")
        else:
            fault = fault_of(type(options), field.name, value)
            if fault:
                raise UserError(f"{prefix}{_flag(field.name)} {fault}")


def fault_of(kind: type, name: str, value: Any) -> str | None:
    """Return the number of an option that is out of range, and why; None for good numbers and all other values."""
    for number in value if isinstance(value, list | tuple) else (value,):
        if type(number) in (int, float):
            default = _FRACTION if type(number) is float else _WHOLE
            fault = RANGES.get(f"{kind.__name__}.{name}", RANGES.get(name, default)).fault(number)
            if fault:
                return f"{number} {fault}"
    return None


def require_seeds(seeds: typing.Sequence[int], option: str) -> None:
    """Raise `UserError` for no seed, and for the first one that is not a whole number within range."""
    if not seeds:
        raise UserError(f"{option} is empty: give at least one seed, such as 0")
    for seed in seeds:
        fault = _SEED.fault(seed) if type(seed) is int else "must be a whole number"
        if fault:
            raise UserError(f"{option} {seed} {fault}")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _unnamed(hint: Any) -> bool:
    """Return whether the flags of a nested dataclass have no prefix: tyro's `arg(name="")`."""
    return any(getattr(extra, "name", None) == "" for extra in getattr(hint, "__metadata__", ()))
