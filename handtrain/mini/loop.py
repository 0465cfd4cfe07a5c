"""One training loop for all mini models: AdamW, a rate that rises and falls, an average of the weights, resumable."""

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
from tqdm import tqdm

from handdata.files import remove_partial
from handtrain.method.batches import batch_of
from handtrain.run import checkpoint

Loss = Callable[[list[int], list[bool], torch.Generator], torch.Tensor]  # rows, which are mirrored -> the mean loss

_CHECKPOINT_SECONDS = 120
_LOG_EVERY = 50  # steps


@dataclass(frozen=True)
class Course:
    """How long and how fast one model learns."""

    name: str
    steps: int
    batch: int
    lr: float
    warmup: int = 100  # steps in which the rate rises; after that it falls as a cosine to a hundredth
    weight_decay: float = 0.01
    average: float = 0.998  # decay of the running mean of the weights that comes out
    seed: int = 0


def fit(course: Course, module: torch.nn.Module, loss: Loss, count: int, folder: Path) -> None:
    """Train a module on `count` pictures and leave the averaged weights in it.

    Every picture of an epoch comes once, each time mirrored by a coin. Killed at any moment, the same call goes on
    from the newest checkpoint under `folder`; `folder/NAME.jsonl` is the log.
    """
    averaged = copy.deepcopy(module).requires_grad_(False)
    both = torch.nn.ModuleDict({"learning": module, "averaged": averaged})
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=course.lr, weight_decay=course.weight_decay, betas=(0.9, 0.99), fused=True
    )
    folder.mkdir(parents=True, exist_ok=True)
    saves = folder / f"{course.name}-checkpoints"
    remove_partial(saves)
    found, _ = checkpoint.newest(saves)
    first = 0
    if found and found.state["course"] == asdict(course):
        checkpoint.restore(found, both, optimiser)
        first = found.state["step"]
    bar = tqdm(range(first, course.steps), initial=first, total=course.steps, desc=course.name, disable=None)
    log = _log_of(folder / f"{course.name}.jsonl", first)
    saved = started = time.monotonic()
    losses: list[float] = []
    module.train()
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = _rate(course, step)
        epochs = -(-course.steps * course.batch // count)
        rows = [row for row, _ in batch_of(step, count, course.batch, epochs, course.seed, course.name)]
        generator = torch.Generator().manual_seed(course.seed * 1_000_003 + step)
        mirrored = (torch.rand(len(rows), generator=generator) < 0.5).tolist()
        optimiser.zero_grad(set_to_none=True)
        value = loss(rows, mirrored, generator)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        _average(averaged, module, min(course.average, (step + 1) / (step + 10)))
        losses.append(float(value.detach()))
        if (step + 1) % _LOG_EVERY == 0 or step + 1 == course.steps:
            now = time.monotonic()
            line = {
                "step": step + 1,
                "loss": sum(losses) / len(losses),
                "images_per_s": len(losses) * course.batch / (now - started),
            }
            log.write(json.dumps({**line, "lr": _rate(course, step)}) + "\n")
            log.flush()
            bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
            started, losses = now, []
        if time.monotonic() - saved > _CHECKPOINT_SECONDS or step + 1 == course.steps:
            means = ((f"model/averaged.{name}", tensor) for name, tensor in averaged.named_parameters())
            tensors = chain(checkpoint.training_state(both, optimiser), means)
            checkpoint.save(saves, f"{step + 1:08d}", tensors, {"step": step + 1, "course": asdict(course)})
            saved = time.monotonic()
    log.close()
    module.load_state_dict(averaged.state_dict())
    module.eval()


def _log_of(path: Path, first: int) -> TextIO:
    """Open a log behind the lines of the steps that are done."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if json.loads(line)["step"] <= first]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _rate(course: Course, step: int) -> float:
    if step < course.warmup:
        return course.lr * (step + 1) / course.warmup
    done = (step - course.warmup) / max(course.steps - course.warmup, 1)
    return course.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def _average(averaged: torch.nn.Module, module: torch.nn.Module, decay: float) -> None:
    with torch.no_grad():
        for old, new in zip(averaged.parameters(), module.parameters(), strict=True):
            old.lerp_(new, 1 - decay)
