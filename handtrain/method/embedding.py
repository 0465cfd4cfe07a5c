"""Stage II: optimize the embedding of every image through the frozen diffusion model (paper, section 3.3)."""

from collections.abc import Iterable

import torch

from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.micro_batch import release_memory
from handtrain.method.noise import Draw


def optimise_embeddings(
    model: Diffusion, latents: Latents, start: torch.Tensor, draws: Iterable[Draw], lr: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings (b, tokens, width) after an Adam step per draw, and the losses (steps, b) before each step.

    Both are on the CPU. The UNet must be frozen. The loss is summed over the samples and a mean within each. Samples
    are independent in the frozen UNet and Adam is elementwise, so a batch gives the same result as single images.
    """
    embeddings = start.detach().to(model.device, copy=True).requires_grad_(True)
    optimiser = torch.optim.Adam([embeddings], lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=embeddings.is_cuda or None)
    latents, micro_batch, history = latents.to(model.device), model.micro_batch, []
    for draw in draws:
        while True:
            optimiser.zero_grad(set_to_none=True)
            losses = []
            try:
                for part in micro_batch.parts(len(latents)):
                    part_losses = model.losses(latents[part], draw[part], embeddings[part])
                    part_losses.sum().backward()  # type: ignore[no-untyped-call]
                    losses.append(part_losses.detach())
                break
            except (RuntimeError, MemoryError) as error:
                micro_batch.halve(error, len(latents))
            release_memory(model.device)
        optimiser.step()
        history.append(torch.cat(losses))  # (b,)
    steps = torch.stack(history) if history else torch.empty(0, len(latents))
    return embeddings.detach().cpu(), steps.cpu()
