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
    """Return texts that were encoded one by one, each without a batch and with an `embedding` (tokens, width).

    Shorter embeddings are padded with zeros; a kind of model with texts of several lengths has a `length` in `more`.
    """
    longest = max(len(each["embedding"]) for each in encoded)
    embeddings = [lengthened(each["embedding"], longest) for each in encoded]
    more = {name: torch.stack([each[name] for each in encoded]) for name in encoded[0] if name != "embedding"}
    return Texts(torch.stack(embeddings), more)


def lengthened(embeddings: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return embeddings (..., n, width) with zeros up to a number of tokens (..., tokens, width)."""
    missing = tokens - embeddings.shape[-2]
    return torch.nn.functional.pad(embeddings, (0, 0, 0, missing)) if missing else embeddings


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

    `schedule` is a diffusers DDPMScheduler; with its prediction type `v_prediction` the target is the velocity. Or it
    is a FlowMatchEulerDiscreteScheduler: the target is noise - latents, and the network reads 1 - sigma.
    """
    if "prediction_type" not in schedule.config:
        sigmas = flow_sigmas(schedule, timesteps)
        share = sigmas[:, None, None, None]
        return (1 - share) * latents + share * noise, 1 - sigmas, noise - latents
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, timesteps) if velocity else noise
    return schedule.add_noise(latents, noise, timesteps), timesteps, target


def flow_sigmas(schedule: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """Return the share of the noise (b,) at times 0, 1, ... of flow matching, moved by the schedule's shift.

    Source: Esser and others, arXiv 2403.03206, section 5.3.2.
    """
    config = schedule.config
    plain = (timesteps + 1).float() / config.num_train_timesteps
    sigmas: torch.Tensor = config.shift * plain / (1 + (config.shift - 1) * plain)
    return sigmas
