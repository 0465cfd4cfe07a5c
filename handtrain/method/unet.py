"""Stage III: fine-tune the UNet on the frozen embeddings (paper, section 3.4), all of its weights or adapters (LoRA).

The trained fusion layer uses the same step.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    clip: float = 0.0,
) -> torch.Tensor:
    """Take one step on the mean loss of a batch, for the parameters in the optimizer; return its losses (b,).

    `embeddings` (b, tokens, width) are on the model's device; a trained layer `fuse` maps them to those of the UNet.
    Where several processes share a batch of `batch` images, `add_gradients` adds their gradients before the step.
    Above 0, `clip` is the largest norm of all gradients together.
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
                if model.half:
                    model.half.collect()
                losses.append(part_losses.detach())
            break
        except (RuntimeError, MemoryError) as error:
            model.micro_batch.halve(error, len(latents))
        if model.half:
            model.half.forget()
        release_memory(model.device)
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if add_gradients:
        add_gradients(trained)
    if clip:
        torch.nn.utils.clip_grad_norm_(trained, clip)
    optimiser.step()
    if model.half:
        model.half.update()
    return torch.cat(losses)


def adam(
    parameters: Iterable[torch.nn.Parameter], lr: float, kind: str = "adam", replayed: bool = False
) -> torch.optim.Optimizer:
    """Return the paper's optimizer, Adam without weight decay. `adam8bit` keeps its moments in 8 bits (CUDA only).

    With `replayed` steps a learning rate is a tensor that they read, see `graphs`.
    """
    trained = list(parameters)
    settings: dict[str, Any] = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8}
    if replayed:
        # The kernel of a GPU reads float32, which rounds the rate
        number = torch.float32 if trained[0].is_cuda else torch.float64
        settings["lr"] = torch.tensor(lr, dtype=number, device=trained[0].device)
        return torch.optim.Adam(trained, fused=True, capturable=True, **settings)
    if kind == "adam8bit":
        import bitsandbytes

        optimiser: torch.optim.Optimizer = bitsandbytes.optim.Adam8bit(trained, **settings)
        return optimiser
    # One kernel for all weights on a GPU; on a CPU the plain loop, whose bits earlier runs have.
    return torch.optim.Adam(trained, fused=trained[0].is_cuda or None, **settings)


def set_rate(group: dict[str, Any], lr: float) -> None:
    """Set the learning rate of a group of parameters of an optimizer, in its tensor if it has one."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def warmed_up(lr: float, step: int, warmup: int) -> float:
    """Return the learning rate of a step, counted from 0: it rises linearly to `lr` over `warmup` steps."""
    return lr * min(1.0, (step + 1) / warmup) if warmup else lr


def decayed(step: int, total: int, decay: str) -> float:
    """Return the factor of the learning rate at a step: 1, or with `linear` decay falling from 1 to 1/20."""
    return max(0.05, 1 - step / total) if decay == "linear" else 1.0


class Average:
    """The running mean of trained weights; in the first steps it follows them faster. A decay of 0 keeps no mean.

    With `replayed` steps the share of the next weights is a tensor that they read, see `graphs`.
    """

    def __init__(self, module: torch.nn.Module, decay: float, replayed: bool = False) -> None:
        self.decay = decay
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad} if decay else {}
        self.weights = {name: p.detach().clone() for name, p in trained.items()}
        self.share: float | torch.Tensor = 0.0
        if replayed and trained:
            self.share = torch.zeros((), device=next(iter(trained.values())).device)

    def begin(self, step: int) -> None:
        """Set the share of the weights after a step, counted from 0."""
        self.set_share(1 - min(self.decay, (step + 1) / (step + 10)))

    def set_share(self, share: float) -> None:
        """Set the share of the next weights."""
        if isinstance(self.share, torch.Tensor):
            self.share.fill_(share)
        else:
            self.share = share

    def update(self, module: torch.nn.Module) -> None:
        """Add the weights after the step that began."""
        if not self.weights:
            return
        parameters = dict(module.named_parameters())
        means, new = list(self.weights.values()), [parameters[name].detach() for name in self.weights]
        if isinstance(self.share, torch.Tensor):
            torch._foreach_lerp_(means, new, [self.share] * len(means))
        else:
            torch._foreach_lerp_(means, new, self.share)

    @contextmanager
    def swapped(self, module: torch.nn.Module) -> Iterator[None]:
        """Put the means into the module while its samples and losses are computed, and the weights back after it."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    @torch.no_grad()
    def _swap(self, module: torch.nn.Module) -> None:
        parameters = dict(module.named_parameters())
        for name, mean in self.weights.items():
            weight = parameters[name].detach().clone()
            parameters[name].copy_(mean)
            mean.copy_(weight)

    @torch.no_grad()
    def replace(self, module: torch.nn.Module) -> None:
        """Copy the means into the module."""
        parameters = dict(module.named_parameters())
        for name, mean in self.weights.items():
            parameters[name].copy_(mean)


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


def move_adapters(unet: Any, device: torch.device) -> None:
    """Move the adapters to a device, and leave the other weights where they are."""
    for name, module in unet.named_modules():
        if name.endswith((".lora_A", ".lora_B")):
            module.to(device)


def merge_adapters(unet: Any) -> None:
    """Add the trained adapters to the weights of their layers, on the CPU, and remove them."""
    unet.to("cpu")
    unet.fuse_lora()
    unet.unload_lora()
