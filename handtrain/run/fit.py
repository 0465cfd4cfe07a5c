"""Options with which a run fits into the memory of a card: those that change the result least come first."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.markdown import markdown_table
from handdata.readers import read_json
from handtrain.options import changed
from handtrain.presets import PRESETS, RunOptions, TrainOptions, options_of
from handtrain.run.footprint import CONTEXT, Footprint, footprint, gib
from handtrain.run.memory import Memory
from handtrain.seals import intact

CARDS = (12, 24, 80)  # GiB
LORA_RATE = 1e-4  # docs/scaling.md
_LORA = {"lora_rank": 16, "unet_lr": LORA_RATE}
# In this order. Parts of a batch and gradient checkpointing change rounding alone. Adam's moments in 8 bits change
# every step a little. Adapters of a low rank cannot express every change of the weights.
_STEPS: tuple[Mapping[str, Any], ...] = ({}, {"optimizer": "adam8bit"}, _LORA)
_EFFECTS = {
    "micro_batch": "changes rounding alone",
    "gradient_checkpointing": "changes rounding alone, slower",
    "optimizer": "Adam's moments are rounded to 8 bits",
    "lora_rank": "adapters are trained in place of all weights",
}


@dataclass(frozen=True)
class Fit:
    """Options that fit, and those of them that were changed."""

    options: TrainOptions
    running: RunOptions
    changes: dict[str, Any]  # by field; empty: everything fits as it is
    footprint: Footprint

    def record(self, fit: str) -> dict[str, Any]:
        """Return the entry of run.json."""
        return {"requested": fit, "changes": self.changes, "peak_gib": round(self.footprint.peak / 2**30, 2)}

    def __str__(self) -> str:
        if not self.changes:
            return f"no change is needed, {gib(self.footprint.peak)} at most"
        changes = self.changes
        reasons = [f"{_flag(name, changes[name])} ({text})" for name, text in _EFFECTS.items() if name in changes]
        rest = [_flag(name, value) for name, value in self.changes.items() if name not in _EFFECTS]
        return f"{', '.join([*reasons, *rest])}: {gib(self.footprint.peak)} at most"


def room_of(fit: str, device: torch.device) -> int:
    """Return the bytes of a card that `--fit` names; `auto` asks the GPU.

    Raises `UserError` for anything else, and for `auto` on a CPU: its memory belongs to other programs too, and what is
    free of it changes from one call to the next, while a resumed run has to choose the same.
    """
    if fit == "auto":
        if device.type != "cuda":
            raise UserError(f"--fit auto asks a GPU for its memory, and this is {device}: give a size, such as 16GiB")
        return int(torch.cuda.get_device_properties(device).total_memory)
    match = re.fullmatch(r"(\d{1,5}(?:\.\d{1,3})?) ?(?:GiB)?", fit)
    if not match or not float(match[1]):
        raise UserError(f"--fit {fit}: give auto, or a size such as 24GiB")
    return int(float(match[1]) * 2**30)


def fitted(
    memory: Memory, options: TrainOptions, running: RunOptions, room: int, given: Collection[str] = (),
    processes: int = 1, in_8_bits: bool = True,
) -> Fit | None:  # fmt: skip
    """Return the options closest to the given ones whose peak fits into `room` bytes of a card, None without any.

    Fields named in `given` stay as they are. With `in_8_bits` Adam's moments may be stored in 8 bits.
    """
    for step in _STEPS:
        if any(name in given for name in step if name != "unet_lr") or _refused(step, options, in_8_bits):
            continue
        taken = replace(options, **{name: value for name, value in step.items() if name not in given})
        for way in _ways(taken, running, given):
            result = footprint(memory, taken, _counted(way), processes)
            if result.peak + CONTEXT <= room:
                return Fit(taken, way, _changes(options, taken) | _changes(running, way), result)
            if result.fixed + CONTEXT > room:
                break  # before more is counted
    return None


def chosen(
    memory: Memory, options: TrainOptions, running: RunOptions, fit: str, device: torch.device,
    given: Collection[str], processes: int,
) -> Fit:  # fmt: skip
    """Return the options for `--fit`. Raises `UserError` with a remedy where nothing fits."""
    room, replayed = room_of(fit, device), running.graphs == "on"
    in_8_bits = device.type == "cuda" and find_spec("bitsandbytes") is not None and not replayed
    result = fitted(memory, options, running, room, given, processes, in_8_bits)
    if result:
        return result
    needed = footprint(memory, options, running, processes).peak + CONTEXT
    whole = replace(running, micro_batch=0, gradient_checkpointing=False)
    free = fitted(memory, options, whole, room, (), processes, in_8_bits)
    remedy = f"it would fit with {free}" if free else "nothing fits: use a larger card, or a smaller --resolution"
    raise UserError(f"--fit {fit}: with the options that you gave the run needs a card of {gib(needed)}; {remedy}")


def resumed(
    memory: Memory, options: TrainOptions, running: RunOptions, fit: str, device: torch.device,
    given: Collection[str], processes: int, out: Path | None,
) -> Fit:  # fmt: skip
    """Return the options for `--fit` of a run in a folder, which keeps what it chose before.

    With another size only the options that determine the weights are kept.
    """
    record = _recorded(out)
    kept = {name: value for name, value in record.get("changes", {}).items() if name not in given}
    try:
        before, way = changed(kept, options, running)
    except UserError:  # of another version
        return chosen(memory, options, running, fit, device, given, processes)
    if record.get("requested") == fit:
        return Fit(before, way, kept, footprint(memory, before, _counted(way), processes))
    weights = _changes(options, before)
    fixed = {*given, "optimizer", "lora_rank"} if record else given
    result = chosen(memory, before, running, fit, device, fixed, processes)
    return replace(result, changes=weights | result.changes)


def table(memory: Memory) -> str:
    """Return a Markdown table of the changes with which every preset fits on cards; `auto` precision is bf16 there."""
    rows = []
    for name in PRESETS:
        options = _with_places(options_of(name), memory)
        if options.precision == "auto":
            options = replace(options, precision="bf16")
        fits = [fitted(memory, options, RunOptions(), card * 2**30) for card in CARDS]
        rows.append([name, gib(footprint(memory, options, RunOptions()).peak), *map(_cell, fits)])
    return markdown_table(["preset", "peak", *(f"{card} GiB" for card in CARDS)], rows)


def _with_places(options: TrainOptions, memory: Memory) -> TrainOptions:
    """Return a preset's options without those that this kind of base has no place for."""
    backbone = memory.base.backbone
    if not backbone.FUSIONS:
        options = replace(options, fusion="flat", lam=1.0)  # at 1 no layer is used
    if not backbone.POSES:
        options = replace(options, pose="none")
    return replace(options, lora_rank=options.lora_rank or backbone.RANK)


def _recorded(out: Path | None) -> dict[str, Any]:
    """Return the last choice in run.json of a folder, empty without any."""
    record = read_json(out / "run.json") if out else None
    if not isinstance(record, dict) or not intact(record) or not isinstance(record.get("sessions"), list):
        return {}
    entries = [each.get("fit") for each in record["sessions"] if isinstance(each, dict)]
    whole = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("changes"), dict)]
    return whole[-1] if whole else {}


def _refused(step: Mapping[str, Any], options: TrainOptions, in_8_bits: bool) -> bool:
    """Return whether a step is not possible, or is taken already."""
    if step and (options.order == "images" or options.lora_rank):
        return True
    return "optimizer" in step and not in_8_bits


def _ways(options: TrainOptions, running: RunOptions, given: Collection[str]) -> Iterator[RunOptions]:
    """Yield the ways to compute the same step, from the fastest to the smallest."""
    checkpointing = [running.gradient_checkpointing]
    if "gradient_checkpointing" not in given and not running.gradient_checkpointing and running.graphs != "on":
        checkpointing.append(True)
    for recomputed in checkpointing:
        way = replace(running, gradient_checkpointing=recomputed)
        yield way
        if "micro_batch" in given:
            continue
        size = max(options.unet_batch, options.embedding_batch if options.embedding_steps else 0)
        if running.micro_batch != "auto" and running.micro_batch:
            size = running.micro_batch
        while size > 1:
            size = (size + 1) // 2
            yield replace(way, micro_batch=size)


def _counted(running: RunOptions) -> RunOptions:
    """Return the options to count: `auto` halves the images at once down to one when memory runs out."""
    return replace(running, micro_batch=1) if running.micro_batch == "auto" else running


def _changes(before: Any, after: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(after).items() if value != getattr(before, name)}


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"


def _cell(fit: Fit | None) -> str:
    if fit is None:
        return "does not fit"
    return ", ".join(f"`{_flag(*change)}`" for change in fit.changes.items()) or "fits"
