"""Stage III: fine-tune the UNet on the frozen embeddings (paper, section 3.4); the trained fusion layer steps alike."""

from collections.abc import Callable, Iterable

import torch

from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.micro_batch import MicroBatch
from handtrain.method.noise import Draw, shuffled


def adam(parameters: Iterable[torch.nn.Parameter], lr: float, kind: str = "adam") -> torch.optim.Optimizer:
    """Return the paper's optimiser: Adam without weight decay. `adam8bit` keeps its moments in 8 bits (CUDA only)."""
    trained = list(parameters)
    settings = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8}
    if kind == "adam8bit":
        import bitsandbytes

        optimiser: torch.optim.Optimizer = bitsandbytes.optim.Adam8bit(trained, **settings)
        return optimiser
    # One kernel for all weights on a GPU; on a CPU the plain loop, whose bits earlier runs have.
    return torch.optim.Adam(trained, fused=trained[0].is_cuda or None, **settings)  # type: ignore[arg-type]


def tuning_step(
    model: Diffusion,
    optimiser: torch.optim.Optimizer,
    latents: Latents,
    draw: Draw,
    embed: Callable[[slice], torch.Tensor],
    micro_batch: MicroBatch | None = None,
    batch: int | None = None,
    add_gradients: Callable[[list[torch.nn.Parameter]], None] | None = None,
) -> torch.Tensor:
    """Make one step on the mean loss of a batch, for whatever parameters the optimiser holds; return its losses (b,).

    `embed` returns the embeddings (b, tokens, width) of a part of the batch on the model's device. Where several
    processes share a batch of `batch` images, `add_gradients` adds theirs to these before the step.
    """
    count = len(latents) if batch is None else batch

    def forget() -> None:
        optimiser.zero_grad(set_to_none=True)

    def piece(part: slice) -> torch.Tensor:
        losses = model.losses(latents[part], draw[part], embed(part))
        (losses.sum() / count).backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    forget()
    losses = (micro_batch or MicroBatch()).losses(len(latents), piece, forget, model.device)
    if add_gradients:
        add_gradients([parameter for group in optimiser.param_groups for parameter in group["params"]])
    optimiser.step()
    return losses


def warmed_up(lr: float, step: int, warmup: int) -> float:
    """Return the learning rate of a step (counted from 0): a straight line to `lr` over `warmup` steps, then `lr`."""
    return lr * min(1.0, (step + 1) / warmup) if warmup else lr


def batch_of(step: int, count: int, batch: int, epochs: int, seed: int, part: str) -> list[tuple[int, int]]:
    """Return the (image, epoch) pairs of a step.

    The images of all epochs, each epoch shuffled by the seed, form one row that is cut into batches: every image is
    seen exactly `epochs` times, and a batch may reach over the border of two epochs.
    """
    places = range(step * batch, min((step + 1) * batch, count * epochs))
    orders = {epoch: shuffled(seed, part, count, epoch) for epoch in {place // count for place in places}}
    return [(orders[place // count][place % count], place // count) for place in places]


def steps_of(count: int, batch: int, epochs: int) -> int:
    """Return how many steps show `count` images `epochs` times."""
    return -(-count * epochs // batch)
