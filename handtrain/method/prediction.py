"""The inputs of the trained network, its prediction and the target of training, by kind of network and schedule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

Inputs: TypeAlias = dict[str, torch.Tensor]  # further inputs of a network by name, one row (b, ...) for each image


@dataclass(frozen=True)
class Texts:
    """Encoded texts: the embedding that Stage II optimizes, and the other inputs that come from a text."""

    embedding: torch.Tensor  # (n, tokens, width)
    more: Inputs = field(default_factory=dict)  # (n, ...)

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, part: slice | list[int]) -> "Texts":
        return Texts(self.embedding[part], {name: tensor[part] for name, tensor in self.more.items()})

    def to(self, device: torch.device, dtype: torch.dtype) -> "Texts":
        """Return the texts on a device, those of floating point in a type."""
        more = {name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in self.more.items()}
        return Texts(self.embedding.to(device, dtype), more)

    def repeated(self, count: int) -> "Texts":
        """Return a single text as `count` rows."""
        more = {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.more.items()}
        return Texts(self.embedding.expand(count, -1, -1), more)


def stacked(encoded: Sequence[Inputs]) -> Texts:
    """Return texts that were encoded one by one, each without a batch and with an `embedding` (tokens, width)."""
    more = {name: torch.stack([each[name] for each in encoded]) for name in encoded[0]}
    return Texts(more.pop("embedding"), more)


@dataclass(frozen=True)
class Form:
    """The way in which a kind of network is called."""

    # of noisy latents (b, c, h, w), times (b,), embeddings (b, tokens, width) and further inputs
    arguments: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Inputs], tuple[tuple[Any, ...], dict[str, Any]]]
    prediction: Callable[[Any], torch.Tensor]  # (b, c, h, w) of the network's answer


def _unet_arguments(
    noisy: torch.Tensor, times: torch.Tensor, embeddings: torch.Tensor, more: Inputs
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    added = {"added_cond_kwargs": more} if more else {}
    return (noisy, times), {"encoder_hidden_states": embeddings, **added, "return_dict": False}


UNET = Form(_unet_arguments, lambda answer: answer[0])


def noised(
    schedule: Any, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return noisy latents (b, c, h, w), the times (b,) as the network reads them, and the target (b, c, h, w).

    `schedule` is a diffusers DDPMScheduler; with its prediction type `v_prediction` the target is the velocity.
    """
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, timesteps) if velocity else noise
    return schedule.add_noise(latents, noise, timesteps), timesteps, target
