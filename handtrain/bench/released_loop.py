"""The training loop of the paper's released code, as the baseline of `handtrain bench`. Nothing else uses it.

One image at a time, float32, a fresh Adam for every image and stage, attention without a fused kernel, and the
gradients of the UNet's weights computed in Stage II too, where they are not used.
"""

from typing import Any

import torch

EMBEDDING_STEPS, UNET_STEPS = 10, 20  # per image


class PlainLoop:
    """Single steps of the two stages, on latents that are sampled once."""

    def __init__(self, unet: Any, schedule: Any, latents: torch.Tensor, texts: torch.Tensor) -> None:
        """Take a UNet, a DDPMScheduler, latents (n, c, h, w) and embeddings (n, tokens, width) on one device."""
        self.unet, self.schedule, self.latents, self.texts = unet, schedule, latents, texts
        self.optimiser: torch.optim.Optimizer | None = None
        self.embedding = texts[:1]

    def embedding_step(self, step: int) -> float:
        """Make one step of Stage II and return its loss."""
        if step % EMBEDDING_STEPS == 0 or self.optimiser is None:
            self.embedding = self._text(step // EMBEDDING_STEPS).clone().requires_grad_(True)
            self.optimiser = torch.optim.Adam([self.embedding], lr=1e-3)
        return self._step(step // EMBEDDING_STEPS)

    def unet_step(self, step: int) -> float:
        """Make one step of Stage III and return its loss."""
        if step % UNET_STEPS == 0 or self.optimiser is None:
            self.embedding = self._text(step // UNET_STEPS)
            self.optimiser = torch.optim.Adam(self.unet.parameters(), lr=1e-6)
        return self._step(step // UNET_STEPS)

    def _text(self, image: int) -> torch.Tensor:
        index = image % len(self.texts)
        return self.texts[index : index + 1]

    def _step(self, image: int) -> float:
        assert self.optimiser is not None
        latent = self.latents[image % len(self.latents)][None]
        noise = torch.randn_like(latent)
        t = torch.randint(0, self.schedule.config.num_train_timesteps, (1,), device=latent.device)
        noisy = self.schedule.add_noise(latent, noise, t)
        loss = torch.nn.functional.mse_loss(self.unet(noisy, t, self.embedding).sample, noise)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())
