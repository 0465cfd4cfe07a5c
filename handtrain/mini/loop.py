"""One resumable training loop for all mini models: AdamW, a warm-up and cosine rate, an average of the weights."""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TextIO

import torch

from handdata.files import remove_partial, write_jsonl
from handdata.progress import bar
from handdata.readers import read_jsonl
from handtrain.method.batches import batch_of
from handtrain.run import checkpoint

Loss = Callable[[list[int], list[bool], torch.Generator], torch.Tensor]  # rows, mirrored, generator -> mean loss

_CHECKPOINT_SECONDS = 120
_LOG_EVERY = 50  # steps


@dataclass(frozen=True)
class Schedule:
    """The training schedule of a mini model: its length, batch size and learning rate."""

    name: str
    steps: int
    batch: int
    lr: float
    warmup: int = 100  # steps in which the rate rises; after that it falls as a cosine to a hundredth
    weight_decay: float = 0.01
    average: float = 0.998  # decay of the running mean of the weights, which is the result
    seed: int = 0


def fit(schedule: Schedule, module: torch.nn.Module, loss: Loss, count: int, folder: Path) -> None:
    """Train a module on `count` pictures and leave the averaged weights in it.

    An epoch holds every picture once, mirrored at random. After an interruption the same call resumes from the newest
    checkpoint under `folder`; `folder/NAME.jsonl` is the log.
    """
    averaged = copy.deepcopy(module).requires_grad_(False)
    both = torch.nn.ModuleDict({"learning": module, "averaged": averaged})
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, betas=(0.9, 0.99), fused=True
    )
    folder.mkdir(parents=True, exist_ok=True)
    saves = folder / f"{schedule.name}-checkpoints"
    first = _resume(saves, schedule, both, optimiser)
    steps = range(first, schedule.steps)
    shown = bar(steps, initial=first, total=schedule.steps, desc=schedule.name, unit="step")
    saved = started = time.monotonic()
    losses: list[float] = []
    module.train()
    with _log_of(folder / f"{schedule.name}.jsonl", first) as log:
        for step in shown:
            losses.append(_step(schedule, step, module, loss, count, optimiser))
            _average(averaged, module, min(schedule.average, (step + 1) / (step + 10)))
            last = step + 1 == schedule.steps
            if (step + 1) % _LOG_EVERY == 0 or last:
                mean, rate = sum(losses) / len(losses), len(losses) * schedule.batch / (time.monotonic() - started)
                line = {"step": step + 1, "loss": mean, "images_per_s": rate, "lr": _rate(schedule, step)}
                print(json.dumps(line), file=log, flush=True)
                shown.set_postfix(loss=f"{mean:.4f}", refresh=False)
                started, losses = time.monotonic(), []
            if time.monotonic() - saved > _CHECKPOINT_SECONDS or last:
                means = ((f"model/averaged.{name}", tensor) for name, tensor in averaged.named_parameters())
                tensors = chain(checkpoint.training_state(both, optimiser), means)
                checkpoint.save(saves, f"{step + 1:08d}", tensors, {"step": step + 1, "course": asdict(schedule)})
                saved = time.monotonic()
    module.load_state_dict(averaged.state_dict())
    module.eval()


def _resume(saves: Path, schedule: Schedule, both: torch.nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Restore the newest checkpoint of the same schedule; return the number of finished steps."""
    remove_partial(saves)
    newest, _ = checkpoint.newest(saves)
    if newest is None or newest.state["course"] != asdict(schedule):
        return 0
    checkpoint.restore(newest, both, optimiser)
    return int(newest.state["step"])


def _step(
    schedule: Schedule, step: int, module: torch.nn.Module, loss: Loss, count: int, optimiser: torch.optim.Optimizer
) -> float:
    """Make one step and return its loss."""
    for group in optimiser.param_groups:
        group["lr"] = _rate(schedule, step)
    epochs = -(-schedule.steps * schedule.batch // count)
    rows = [row for row, _ in batch_of(step, count, schedule.batch, epochs, schedule.seed, schedule.name)]
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
    mirrored = (torch.rand(len(rows), generator=generator) < 0.5).tolist()
    optimiser.zero_grad(set_to_none=True)
    value = loss(rows, mirrored, generator)
    value.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
    return float(value.detach())


def _log_of(path: Path, first: int) -> TextIO:
    """Open a log for appending, without the lines of steps that will be repeated."""
    write_jsonl(path, [line for line in read_jsonl(path) if line["step"] <= first])
    return path.open("a", encoding="utf-8")


def _rate(schedule: Schedule, step: int) -> float:
    if step < schedule.warmup:
        return schedule.lr * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(schedule.steps - schedule.warmup, 1)
    return schedule.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def _average(averaged: torch.nn.Module, module: torch.nn.Module, decay: float) -> None:
    with torch.no_grad():
        for old, new in zip(averaged.parameters(), module.parameters(), strict=True):
            old.lerp_(new, 1 - decay)
