"""The training loop of Stage III, and of the token fusion layer before Stage II."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from handdata.progress import bar
from handtrain.method.batches import ahead, batch_of, steps_of
from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.noise import Draw, image_draws, moved
from handtrain.method.unet import adam, tuning_step, warmed_up
from handtrain.run.checkpoint import training_state
from handtrain.run.processes import Processes
from handtrain.run.session import Session
from handtrain.training.training_set import EncodedSplit
from handtrain.training.validation import Observer


@dataclass(frozen=True)
class Phase:
    """One use of the training loop: its name and length, and the settings of its optimizer."""

    part: str  # `unet` or `fusion`: name in the log, in checkpoints and in the seeds of the draws
    stage: int  # number in the log
    epochs: int
    batch: int  # images per step, over all processes
    lr: float
    seed: int
    warmup: int = 0  # steps
    optimizer: str = "adam"


def tune(
    session: Session,
    model: Diffusion,
    module: torch.nn.Module,
    split: EncodedSplit,
    embeddings: torch.Tensor,
    phase: Phase,
    fuse: Callable[[torch.Tensor], torch.Tensor] | None = None,
    observer: Observer | None = None,
) -> None:
    """Train the parameters of a module that require gradients, from the checkpoint if it is of this phase.

    `embeddings` (n, tokens, width) are the frozen ones of the images of the split; a trained layer `fuse` maps them to
    those of the UNet. Raises `Stopped` after a signal, `Unfinished` if a loss is not finite.
    """
    processes, total = session.processes, steps_of(len(split), phase.batch, phase.epochs)
    optimiser = adam([p for p in module.parameters() if p.requires_grad], phase.lr, phase.optimizer)
    first = session.restore(phase.part, module, optimiser)
    session.stops.deferred = True  # until the last checkpoint
    if observer and first == 0:
        observer.observe(model, 0, total)
    elif observer and observer.ended(first, total):  # stopped early, before the run was interrupted
        return
    load = partial(_batch, split, embeddings, phase, model, processes)
    steps = bar(
        ahead(load, range(first, total), model.device),
        desc=f"Stage {'I' * phase.stage}", unit="step", initial=first, total=total, show=session.progress,
    )  # fmt: skip
    for step, (image_ids, latents, draw, inputs) in steps:
        rate = warmed_up(phase.lr, step, phase.warmup)
        for group in optimiser.param_groups:
            group["lr"] = rate
        losses = tuning_step(model, optimiser, latents, draw, inputs, fuse, len(image_ids), processes.add_gradients)
        losses = processes.gather_losses(losses, len(image_ids))
        session.log_step(phase.stage, step, image_ids, losses, rate, part=phase.part)
        steps.set_postfix(loss=f"{float(losses.mean()):.4f}", refresh=False)
        if observer:
            observer.observe(model, step + 1, total)
        ended = observer is not None and observer.ended(step + 1, total)
        name, state = f"stage{phase.stage}-{step + 1:08d}", {"part": phase.part, "step": step + 1}
        state |= observer.state if observer else {}
        session.save_when_due(name, training_state(module, optimiser), state, last=ended or step + 1 == total)
        if ended:
            break


def _batch(
    split: EncodedSplit, embeddings: torch.Tensor, phase: Phase, model: Diffusion, processes: Processes, step: int
) -> tuple[list[str], Latents, Draw, torch.Tensor]:
    """Return the image_ids of a step, and the inputs on the device of this process's share of them."""
    batch = batch_of(step, len(split), phase.batch, phase.epochs, phase.seed, phase.part)
    share = batch[processes.share(len(batch))]
    rows, keys = [row for row, _ in share], [(split.image_ids[row], epoch) for row, epoch in share]
    draw = image_draws(phase.seed, phase.part, keys, split.latents.shape, model.timesteps)
    latents, inputs = split.latents[rows].to(model.device), moved(embeddings[rows], model.device)
    return [split.image_ids[row] for row, _ in batch], latents, draw.to(model.device), inputs
