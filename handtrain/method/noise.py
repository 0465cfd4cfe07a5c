"""The random draws of training: from a seed per image and step, or in the order of the released code.

No state is kept between steps, so batch size, number of processes and resuming change nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draw:
    """The random numbers of one training step of a batch, on the CPU in float32."""

    posterior: torch.Tensor  # (b, c, h, w) standard normal: selects the latent from the VAE's posterior
    noise: torch.Tensor  # (b, c, h, w) standard normal: added to the latent
    timesteps: torch.Tensor  # (b,) int64 in 0..timesteps - 1

    def __getitem__(self, part: slice) -> "Draw":
        return Draw(self.posterior[part], self.noise[part], self.timesteps[part])

    def to(self, device: torch.device) -> "Draw":
        """Return the draw on a device."""
        return Draw(*(moved(tensor, device) for tensor in (self.posterior, self.noise, self.timesteps)))


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; the copy to a GPU overlaps with its computation."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def seed_of(*parts: object) -> int:
    """Return a seed that is a function of the parts, such as (seed, stage, image_id, step).

    It has 32 bits, since torch's CPU generator uses no more of a seed.
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")


def image_draws(seed: int, part: str, keys: Sequence[tuple[str, int]], shape: tuple[int, ...], timesteps: int) -> Draw:
    """Return the draws of one batch. `keys` are (image_id, step of that image), `shape` is a latent's (c, h, w).

    `part` separates the stages. An image's draws do not depend on the rest of the batch.
    """
    draws = []
    for image_id, step in keys:
        generator = torch.Generator().manual_seed(seed_of(seed, part, image_id, step))
        posterior = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        draws.append((posterior, noise, torch.randint(timesteps, (), generator=generator)))
    if not draws:  # a process may have no image of a batch
        nothing = torch.empty(0, *shape)
        return Draw(nothing, nothing, torch.empty(0, dtype=torch.int64))
    posteriors, noises, times = zip(*draws, strict=True)
    return Draw(torch.stack(posteriors), torch.stack(noises), torch.stack(times))


def shaped_times(timesteps: torch.Tensor, total: int, shape: str) -> torch.Tensor:
    """Return uniform times (b,) of `total` with more `late` (noisy), `middle` or `early` ones; `uniform`: unchanged.

    The densities are triangles with their peak at the last, the middle or the first time.
    """
    share = (timesteps.double() + 0.5) / total
    match shape:
        case "late":
            share = share.sqrt()
        case "early":
            share = 1 - (1 - share).sqrt()
        case "middle":
            share = torch.where(share < 0.5, (share / 2).sqrt(), 1 - ((1 - share) / 2).sqrt())
        case _:
            return timesteps
    return (share * total).long().clamp(0, total - 1)


def unit(*parts: object) -> float:
    """Return a number in 0 to 1 that is a function of the parts, as in `seed_of`."""
    return seed_of(*parts) / 2**32


def reference_draws(
    seed: int, shape: tuple[int, ...], timesteps: int, steps: int, noise_device: str = "cpu"
) -> list[Draw]:
    """Return the draws of all steps of one image in the released code's order: Stage II's steps, then Stage III's.

    One posterior draw for the image, one unused start code, then noise and t for each step. The released code takes the
    first from the CPU's generator and the rest from the GPU's, both with the same seed. With `noise_device` cpu one
    CPU generator is used for all, so that every machine draws the same numbers (docs/decisions.md).
    """
    batch = (1, *shape)
    generator = torch.Generator().manual_seed(seed)
    posterior = torch.randn(batch, generator=generator)
    if noise_device != "cpu":
        generator = torch.Generator(noise_device).manual_seed(seed)
    device = generator.device
    torch.randn(batch, generator=generator, device=device)  # the start code
    draws = []
    for _ in range(steps):
        noise = torch.randn(batch, generator=generator, device=device)
        t = torch.randint(timesteps, (1,), generator=generator, device=device)
        draws.append(Draw(posterior, noise.cpu(), t.cpu()))
    return draws


def shuffled(seed: int, part: str, count: int, epoch: int) -> list[int]:
    """Return the numbers below `count` in the order of an epoch."""
    order: list[int] = torch.randperm(
        count, generator=torch.Generator().manual_seed(seed_of(seed, part, epoch))
    ).tolist()
    return order
