"""Stage II for a split: batches of images, distributed over the processes and stored as shards."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from handdata.progress import bar
from handtrain import tensor_cache
from handtrain.compiling import eager
from handtrain.method.batches import ahead
from handtrain.method.diffusion import Diffusion
from handtrain.method.embedding import optimise_embeddings
from handtrain.method.micro_batch import parts
from handtrain.method.noise import Draw, image_draws
from handtrain.presets import TrainOptions
from handtrain.run.session import Session
from handtrain.training.training_set import EncodedSplit


def stage2(session: Session, model: Diffusion, split: EncodedSplit, options: TrainOptions) -> torch.Tensor:
    """Return the optimized embeddings (n, tokens, width) of a split's images, on the CPU.

    A batch of images becomes a shard in RUN/stage2. Each process optimizes one batch at a time; the first writes all.
    Raises `Stopped` after a signal, `Unfinished` if a loss is not finite.
    """
    processes, lr, steps = session.processes, options.embedding_lr, options.embedding_steps
    if not steps:
        return split.mixed
    session.phases.begin("Stage II")
    batches = parts(len(split), options.embedding_batch)
    paths = [session.run.path / "stage2" / f"{number:05d}.safetensors" for number in range(len(batches))]
    parts_of = [split.image_ids[batch] for batch in batches]
    finished = processes.on_first(lambda: _read(session, paths, parts_of, split.mixed.shape[1:]))
    embeddings = torch.empty_like(split.mixed)
    for number, shard in finished.items():
        embeddings[batches[number]] = shard
    missing = [number for number in range(len(batches)) if number not in finished]
    if model.compiled and missing:
        _compare_compiling(session, model, split, batches[missing[0]], options, -(-len(missing) // processes.count))
    shown = bar(total=len(batches), initial=len(finished), desc="Stage II", unit="batch", show=session.progress)
    for start in range(0, len(missing), processes.count):
        turn = missing[start : start + processes.count]
        began, result = time.monotonic(), None
        if processes.rank < len(turn):
            part = batches[turn[processes.rank]]
            draws = _draws(model, split, part, options)
            with eager(model.compiled and part.stop - part.start < options.embedding_batch):
                result = optimise_embeddings(model, split.latents[part], split.mixed[part], draws, lr)
        results = [result for result in processes.all_gather(result) if result]
        speed = sum(losses.numel() for _, losses in results) / (time.monotonic() - began)
        for number, (optimised, losses) in zip(turn, results, strict=True):
            image_ids = split.image_ids[batches[number]]
            for step, of_step in enumerate(losses):
                session.log_step(2, number * steps + step, image_ids, of_step, lr, speed=speed)
            embeddings[batches[number]] = optimised
            if processes.first:
                session.run.sync()
                about = {"image_ids": image_ids, "log_lines": session.run.lines, "run": session.run.key}
                tensor_cache.write(paths[number], {"embeddings": optimised}, about)
            shown.update()
        session.stop_if(session.stopping, f"batch {turn[-1]} of Stage II")
    shown.close()
    return embeddings


def _compare_compiling(
    session: Session, model: Diffusion, split: EncodedSplit, batch: slice, options: TrainOptions, batches: int
) -> None:
    """Compile the forward and the backward pass of the first part of a batch, without effect, and print the cost."""
    latents, draw = split.latents[batch].to(model.device), next(_draws(model, split, batch, options))
    embeddings = split.mixed[batch].to(model.device, copy=True).requires_grad_(True)
    parts_of_batch = model.micro_batch.parts(len(latents))

    def one_pass() -> None:
        part = parts_of_batch[0]
        try:
            model.losses(latents[part], draw[part], embeddings[part]).sum().backward()  # type: ignore[no-untyped-call]
        finally:
            embeddings.grad = None

    passes, whole = batches * options.embedding_steps * len(parts_of_batch), len(latents) == options.embedding_batch
    session.compare_compiling("Stage II", whole, passes, one_pass)


def _read(
    session: Session, paths: list[Path], image_ids: list[list[str]], shape: torch.Size
) -> dict[int, torch.Tensor]:
    """Return the embeddings of the run's intact shards on disk, by number."""
    finished = {}
    for number, (path, names) in enumerate(zip(paths, image_ids, strict=True)):
        tensors, about = tensor_cache.read(path) or ({}, {})
        embeddings = tensors.get("embeddings")
        whole = embeddings is not None and embeddings.shape == (len(names), *shape)
        if embeddings is not None and whole and about.get("image_ids") == names and session.run.owns(about):
            finished[number] = embeddings
        elif path.exists():
            print(f"handtrain: {path.name} of Stage II is damaged and is made again", file=sys.stderr)
    return finished


def _draws(model: Diffusion, split: EncodedSplit, part: slice, options: TrainOptions) -> Iterator[Draw]:
    def draw(step: int) -> Draw:
        keys = [(image_id, step) for image_id in split.image_ids[part]]
        return image_draws(options.seed, "stage2", keys, split.latents.shape, model.timesteps).to(model.device)

    return (drawn for _, drawn in ahead(draw, range(options.embedding_steps), model.device))
