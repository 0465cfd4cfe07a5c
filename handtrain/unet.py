"""Stage III: fine-tune the UNet on the frozen embeddings (paper, section 3.4); the trained fusion layer steps alike."""

from collections.abc import Callable, Iterable

import torch

from handtrain.diffusion import Diffusion, Latents, parts
from handtrain.noise import Draw, shuffled


def adam(parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Adam:
    """Return the paper's optimiser: Adam without weight decay."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999), eps=1e-8)


def tuning_step(
    model: Diffusion,
    optimiser: torch.optim.Optimizer,
    latents: Latents,
    draw: Draw,
    embed: Callable[[slice], torch.Tensor],
    micro_batch: int = 0,
) -> torch.Tensor:
    """Make one step on the mean loss of a batch, for whatever parameters the optimiser holds; return its losses (b,).

    `embed` returns the embeddings (b, tokens, width) of a part of the batch on the model's device.
    """
    optimiser.zero_grad(set_to_none=True)
    losses = []
    for part in parts(len(latents), micro_batch):
        part_losses = model.losses(latents[part], draw[part], embed(part))
        (part_losses.sum() / len(latents)).backward()  # type: ignore[no-untyped-call]
        losses.append(part_losses.detach())
    optimiser.step()
    return torch.cat(losses)


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
