"""Stage III: fine-tune the UNet on the frozen embeddings (paper, section 3.4), all of its weights or adapters (LoRA).

The trained fusion layer uses the same step.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.micro_batch import release_memory
from handtrain.method.noise import Draw

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # the projections of every attention, as LoRA's paper proposes


def tuning_step(
    model: Diffusion,
    optimiser: torch.optim.Optimizer,
    latents: Latents,
    draw: Draw,
    embeddings: torch.Tensor,
    fuse: Callable[[torch.Tensor], torch.Tensor] | None = None,
    batch: int | None = None,
    add_gradients: Callable[[list[torch.nn.Parameter]], None] | None = None,
) -> torch.Tensor:
    """Take one step on the mean loss of a batch, for the parameters in the optimizer; return its losses (b,).

    `embeddings` (b, tokens, width) are on the model's device; a trained layer `fuse` maps them to those of the UNet.
    Where several processes share a batch of `batch` images, `add_gradients` adds their gradients before the step.
    """
    count = len(latents) if batch is None else batch
    while True:
        optimiser.zero_grad(set_to_none=True)
        losses = [torch.empty(0, device=model.device)]  # a process may have no image of a batch
        try:
            for part in model.micro_batch.parts(len(latents)):
                inputs = fuse(embeddings[part]) if fuse else embeddings[part]
                part_losses = model.losses(latents[part], draw[part], inputs)
                (part_losses.sum() / count).backward()  # type: ignore[no-untyped-call]
                losses.append(part_losses.detach())
            break
        except (RuntimeError, MemoryError) as error:
            model.micro_batch.halve(error, len(latents))
        release_memory(model.device)
    if add_gradients:
        add_gradients([parameter for group in optimiser.param_groups for parameter in group["params"]])
    optimiser.step()
    return torch.cat(losses)


def adam(parameters: Iterable[torch.nn.Parameter], lr: float, kind: str = "adam") -> torch.optim.Optimizer:
    """Return the paper's optimizer, Adam without weight decay. `adam8bit` keeps its moments in 8 bits (CUDA only)."""
    trained = list(parameters)
    settings = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8}
    if kind == "adam8bit":
        import bitsandbytes

        optimiser: torch.optim.Optimizer = bitsandbytes.optim.Adam8bit(trained, **settings)
        return optimiser
    # One kernel for all weights on a GPU; on a CPU the plain loop, whose bits earlier runs have.
    return torch.optim.Adam(trained, fused=trained[0].is_cuda or None, **settings)  # type: ignore[arg-type]


def warmed_up(lr: float, step: int, warmup: int) -> float:
    """Return the learning rate of a step, counted from 0: it rises linearly to `lr` over `warmup` steps."""
    return lr * min(1.0, (step + 1) / warmup) if warmup else lr


def require_grad(unet: Any) -> None:
    """Make the trained weights require gradients: the adapters if there are any, else all weights."""
    adapters = [parameter for name, parameter in unet.named_parameters() if "lora_" in name]
    for parameter in adapters or unet.parameters():
        parameter.requires_grad_(True)


def add_adapters(unet: Any, rank: int, seed: int) -> None:
    """Add low-rank adapters, initialized from the seed; until they are trained the UNet's predictions stay the same."""
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))
    unet.requires_grad_(False)


def merge_adapters(unet: Any) -> None:
    """Add the trained adapters to the weights of their layers, and remove them."""
    unet.fuse_lora()
    unet.unload_lora()
