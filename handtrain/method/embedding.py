"""Stage II: optimise every image's embedding through the frozen diffusion model (paper, section 3.3)."""

from collections.abc import Callable, Iterable
from functools import partial

import torch

from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.micro_batch import MicroBatch
from handtrain.method.noise import Draw

Watch = Callable[[int, torch.Tensor], None]  # step of the batch, losses (b,); stops the run by raising


def optimise_embeddings(
    model: Diffusion,
    latents: Latents,
    start: torch.Tensor,
    draws: Iterable[Draw],
    lr: float,
    watch: Watch,
    micro_batch: MicroBatch | None = None,
) -> torch.Tensor:
    """Return the embeddings (b, tokens, width) after one step of a fresh Adam for each draw. The UNet must be frozen.

    The loss is summed over the samples and a mean within each. Samples do not meet in the frozen UNet and Adam works
    element by element, so a batch gives what each image alone would give. `watch` sees the losses before the update.
    """
    embeddings = start.detach().to(model.device, copy=True).requires_grad_(True)
    optimiser = torch.optim.Adam([embeddings], lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=embeddings.is_cuda or None)
    pieces, latents = micro_batch or MicroBatch(), latents.to(model.device)
    for step, draw in enumerate(draws):
        optimiser.zero_grad(set_to_none=True)
        watch(
            step,
            pieces.losses(
                len(latents), partial(_piece, model, latents, draw, embeddings), optimiser.zero_grad, model.device
            ),
        )
        optimiser.step()
    return embeddings.detach().cpu()


def _piece(model: Diffusion, latents: Latents, draw: Draw, embeddings: torch.Tensor, part: slice) -> torch.Tensor:
    losses = model.losses(latents[part], draw[part], embeddings[part])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach()
