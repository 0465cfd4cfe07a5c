"""Stage II: optimise every image's embedding through the frozen diffusion model (paper, section 3.3)."""

from collections.abc import Callable, Iterable

import torch

from handtrain.diffusion import Diffusion, Latents, parts
from handtrain.noise import Draw

Watch = Callable[[int, torch.Tensor], None]  # step of the batch, losses (b,); stops the run by raising


def optimise_embeddings(
    model: Diffusion,
    latents: Latents,
    start: torch.Tensor,
    draws: Iterable[Draw],
    lr: float,
    watch: Watch,
    micro_batch: int = 0,
) -> torch.Tensor:
    """Return the embeddings (b, tokens, width) after one step of a fresh Adam for each draw. The UNet must be frozen.

    The loss is summed over the samples and a mean within each. Samples do not meet in the frozen UNet and Adam works
    element by element, so a batch gives what each image alone would give. `watch` sees the losses before the update.
    """
    embeddings = start.detach().to(model.device, copy=True).requires_grad_(True)
    optimiser = torch.optim.Adam([embeddings], lr=lr, betas=(0.9, 0.999), eps=1e-8)
    for step, draw in enumerate(draws):
        optimiser.zero_grad(set_to_none=True)
        losses = []
        for part in parts(len(latents), micro_batch):
            part_losses = model.losses(latents[part], draw[part], embeddings[part])
            part_losses.sum().backward()  # type: ignore[no-untyped-call]
            losses.append(part_losses.detach())
        watch(step, torch.cat(losses))
        optimiser.step()
    return embeddings.detach().cpu()
