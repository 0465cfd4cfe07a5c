"""The training loop of Stage III, and of the token fusion layer before Stage II."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from handdata.progress import bar
from handtrain.compiling import eager
from handtrain.graphs import Replayed, Step
from handtrain.method.batches import Order, ahead, batch_of, steps_of
from handtrain.method.diffusion import Diffusion, Latents, snr_weights
from handtrain.method.noise import Draw, image_draws, moved, shaped_times, unit
from handtrain.method.prediction import Texts, lengthened
from handtrain.method.unet import Average, adam, decayed, set_rate, tuning_step, warmed_up
from handtrain.presets import TrainOptions
from handtrain.run.checkpoint import training_state
from handtrain.run.processes import Processes
from handtrain.run.session import Session
from handtrain.training.training_set import EncodedSplit
from handtrain.training.validation import Observer


@dataclass(frozen=True)
class Course:
    """The switches of Stage III, whose defaults are the paper's: none."""

    options: TrainOptions
    order: Order  # the images of every step
    empty: Texts  # '' as a single text


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
    course: Course | None = None  # of Stage III alone


def tune(
    session: Session, model: Diffusion, module: torch.nn.Module, split: EncodedSplit, embeddings: torch.Tensor,
    phase: Phase, fuse: Callable[[torch.Tensor], torch.Tensor] | None = None, observer: Observer | None = None,
) -> None:  # fmt: skip
    """Train the parameters of a module that require gradients, from the checkpoint if it is of this phase.

    `embeddings` (n, tokens, width) are the frozen ones of the images of the split; a trained layer `fuse` maps them to
    those of the UNet. Raises `Stopped` after a signal, `Unfinished` if a loss is not finite.
    """
    processes, course = session.processes, phase.course
    session.phases.begin("Stage III" if course else "fusion")
    total = course.order.steps if course else steps_of(len(split), phase.batch, phase.epochs)
    options = course.options if course else TrainOptions()
    optimiser, average, first = _begun(session, model, module, phase, options)
    replayed = _replayed(model, module, optimiser, average, phase, options, processes, fuse)
    add, clip = processes.add_gradients, options.unet_clip
    total = _observed_at_first(observer, model, first, total)
    batches = partial(_batch, split, embeddings, phase, model, processes)
    if model.compiled and first < total:
        _compare_compiling(session, model, module, phase, fuse, batches(first), total - first)
    coming, stage = ahead(batches, range(first, total), model.device), f"Stage {'I' * phase.stage}"
    session.run.restart_clock()
    steps = bar(coming, desc=stage, unit="step", initial=first, total=total, show=session.progress)
    for step, (image_ids, latents, draw, inputs) in steps:
        rate = _set_rate(optimiser, phase, options, step, total)
        average.begin(step)
        count = len(image_ids)
        if replayed:
            losses = replayed(latents, draw, inputs, count)
        else:
            with eager(model.compiled and count < phase.batch):
                losses = tuning_step(model, optimiser, latents, draw, inputs, fuse, count, add, clip)
            average.update(module)
        losses = processes.gather_losses(losses, count)
        session.log_step(phase.stage, step, image_ids, losses, rate, part=phase.part)
        steps.set_postfix(loss=f"{float(losses.mean()):.4f}", refresh=False)
        ended = observer is not None and _observed(observer, model, module, average, step + 1, total)
        state = {"part": phase.part, "step": step + 1, **(observer.state if observer else {})}
        tensors = training_state(module, optimiser, average.weights)
        session.save_when_due(f"stage{phase.stage}-{step + 1:08d}", tensors, state, last=ended or step + 1 == total)
        if ended:
            break
    session.stops.deferred = False  # a run that is resumed after its last step has none
    average.replace(module)


def _compare_compiling(
    session: Session, model: Diffusion, module: torch.nn.Module, phase: Phase,
    fuse: Callable[[torch.Tensor], torch.Tensor] | None, batch: tuple[list[str], Latents, Draw, torch.Tensor],
    steps: int,
) -> None:  # fmt: skip
    """Compile the forward and the backward pass of the first part of a batch, without effect, and print the cost."""
    image_ids, latents, draw, inputs = batch

    def one_pass() -> None:
        try:
            for part in model.micro_batch.parts(len(latents))[:1]:  # a process may have no image of a batch
                texts = fuse(inputs[part]) if fuse else inputs[part]
                model.losses(latents[part], draw[part], texts).sum().backward()  # type: ignore[no-untyped-call]
        finally:
            module.zero_grad(set_to_none=True)
            if model.half:
                model.half.forget()

    passes = steps * len(model.micro_batch.parts(-(-phase.batch // session.processes.count)))
    whole, stage = len(image_ids) == phase.batch, "Stage III" if phase.course else "fusion"
    session.compare_compiling(stage, whole, passes, one_pass)


def _replayed(
    model: Diffusion, module: torch.nn.Module, optimiser: torch.optim.Optimizer, average: Average, phase: Phase,
    options: TrainOptions, processes: Processes, fuse: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Step | None:  # fmt: skip
    """Return the function that replays a step (gradients, optimizer and running mean), None without --graphs."""
    if not model.replayed:
        return None
    add, clip = processes.add_gradients, options.unet_clip

    def take(latents: Latents, draw: Draw, inputs: torch.Tensor, count: int) -> torch.Tensor:
        losses = tuning_step(model, optimiser, latents, draw, inputs, fuse, count, add, clip)
        average.update(module)
        return losses

    return Replayed(take, phase.batch, model, optimiser, average)


def _observed_at_first(observer: Observer | None, model: Diffusion, first: int, total: int) -> int:
    """Observe the model before the first step; return the number of steps, fewer if an earlier go ended early."""
    if observer and first == 0:
        observer.observe(model, 0, total)
    elif observer and observer.ended(first, total):
        return first
    return total


def _observed(
    observer: Observer, model: Diffusion, module: torch.nn.Module, average: Average, step: int, total: int
) -> bool:
    """Observe the weights that the result would have after this step; return whether Stage III stops early."""
    if observer.due(step, total):
        with average.swapped(module):
            _follow(model)
            observer.observe(model, step, total)
        _follow(model)
    return observer.ended(step, total)


def _follow(model: Diffusion) -> None:
    """Let the copy that computes take the present weights."""
    if model.half:
        model.half.update()


def _begun(
    session: Session, model: Diffusion, module: torch.nn.Module, phase: Phase, options: TrainOptions
) -> tuple[torch.optim.Optimizer, Average, int]:
    """Return the optimizer, the average of the weights and the number of finished steps, from the checkpoint if any."""
    optimiser, average = _optimiser(module, model, phase, options), Average(module, options.ema, model.replayed)
    first = session.restore(phase.part, module, optimiser, average.weights)
    if model.half:
        model.half.follow(model.unet)
    session.stops.deferred = True  # until the last checkpoint
    return optimiser, average, first


def _set_rate(optimiser: torch.optim.Optimizer, phase: Phase, options: TrainOptions, step: int, total: int) -> float:
    """Set the learning rate of a step and return that of the UNet."""
    rate = warmed_up(phase.lr, step, phase.warmup) * decayed(step, total, options.unet_decay)
    for group in optimiser.param_groups:
        set_rate(group, rate * group.get("factor", 1))
    return rate


def _optimiser(module: torch.nn.Module, model: Diffusion, phase: Phase, options: TrainOptions) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters that require gradients; pose layers have a rate of their own."""
    layers = list(model.pose.parameters()) if model.pose is not None and phase.course else []
    of_layers = set(map(id, layers))
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in of_layers]
    optimiser = adam(others, phase.lr, phase.optimizer, model.replayed)
    if layers:
        lr = copy.deepcopy(optimiser.defaults["lr"])  # a tensor has one value
        optimiser.add_param_group({"params": layers, "factor": options.pose_rate, "lr": lr})
    return optimiser


def _batch(
    split: EncodedSplit, embeddings: torch.Tensor, phase: Phase, model: Diffusion, processes: Processes, step: int
) -> tuple[list[str], Latents, Draw, torch.Tensor]:
    """Return the image_ids of a step, and the inputs on the device of this process's share of them."""
    if phase.course:
        batch = phase.course.order(step)
    else:
        batch = batch_of(step, len(split), phase.batch, phase.epochs, phase.seed, phase.part)
    share = batch[processes.share(len(batch))]
    rows, keys = [row for row, _ in share], [(split.image_ids[row], epoch) for row, epoch in share]
    draw = image_draws(phase.seed, phase.part, keys, split.latents.shape, model.timesteps)
    latents, inputs = split.latents[rows], embeddings[rows]
    if phase.course:
        latents, draw, inputs = _altered(phase.course, keys, latents, draw, inputs, model)
    inputs = moved(inputs, model.device)
    return [split.image_ids[row] for row, _ in batch], latents.to(model.device), draw.to(model.device), inputs


def _altered(
    course: Course, keys: list[tuple[str, int]], latents: Latents, draw: Draw, inputs: torch.Tensor, model: Diffusion
) -> tuple[Latents, Draw, torch.Tensor]:
    """Return the inputs of a step with the switches' changes: dropped texts and poses, times, weights of the loss."""
    options = course.options
    if options.times != "uniform":
        draw = replace(draw, timesteps=shaped_times(draw.timesteps, model.timesteps, options.times))
    if options.min_snr and keys:
        scale = snr_weights(model.schedule, draw.timesteps, options.min_snr)[:, None, None, None]
        weights = torch.ones_like(latents.mean[:, :1]) if latents.weights is None else latents.weights
        latents = replace(latents, weights=weights * scale.to(weights.device))
    if options.text_dropout:
        rows = _dropped(options.seed, "no text", keys, options.text_dropout)
        inputs[rows] = lengthened(course.empty.embedding[0], inputs.shape[1])
        for name, value in course.empty.more.items():
            latents.more[name][rows] = value[0]
    if latents.poses is not None and options.pose_dropout:
        latents.poses[_dropped(options.seed, "no pose", keys, options.pose_dropout)] = torch.nan
    return latents, draw, inputs


def _dropped(seed: int, what: str, keys: list[tuple[str, int]], share: float) -> list[int]:
    # By image and epoch, so that batch size, number of processes and resuming change nothing. Indexed by a list,
    # `latents` and `inputs` are copies.
    return [place for place, (image_id, epoch) in enumerate(keys) if unit(seed, what, image_id, epoch) < share]
