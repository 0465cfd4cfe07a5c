"""The equation that Stages II and III share: noise prediction on a latent at a random time."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from handtrain.method.conditioning import PoseLayers
from handtrain.method.half import HalfCopy
from handtrain.method.micro_batch import MicroBatch
from handtrain.method.noise import Draw, moved
from handtrain.method.prediction import UNET, Form, Inputs, noised


@dataclass(frozen=True)
class Latents:
    """The VAE's posteriors of images, the weights of their losses, and the network's inputs besides the embedding."""

    mean: torch.Tensor  # (b, c, h, w)
    deviation: torch.Tensor  # (b, c, h, w)
    weights: torch.Tensor | None = None  # (b, 1, h, w) with mean 1 in each sample
    poses: torch.Tensor | None = None  # (b, 64), see `conditioning`; a row of NaN leaves the pose open
    more: Inputs = field(default_factory=dict)  # of the images and their texts, (b, ...)

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, part: slice | list[int]) -> "Latents":
        weights, poses = (None if tensor is None else tensor[part] for tensor in (self.weights, self.poses))
        more = {name: tensor[part] for name, tensor in self.more.items()}
        return Latents(self.mean[part], self.deviation[part], weights, poses, more)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (c, h, w) of one latent."""
        return tuple(self.mean.shape[1:])

    def to(self, device: torch.device) -> "Latents":
        """Return the latents on a device."""
        weights, poses = (None if tensor is None else moved(tensor, device) for tensor in (self.weights, self.poses))
        more = {name: moved(tensor, device) for name, tensor in self.more.items()}
        return Latents(moved(self.mean, device), moved(self.deviation, device), weights, poses, more)


@dataclass(frozen=True)
class Diffusion:
    """A network on its device with its schedule, the scale of its latents, and the settings of its computation."""

    unet: Any  # the trained network, a diffusers UNet2DConditionModel or transformer
    schedule: Any  # of the training, see `prediction.noised`
    scaling: float  # the VAE's scaling_factor, 0.18215 for Stable Diffusion
    device: torch.device
    autocast: torch.dtype | None = None  # of matrix products and convolutions; the weights stay float32
    call: Any = None  # what computes in place of the UNet: its copy in bfloat16, or the compiled one
    compiled: bool = False  # whether `call`, or blocks of it, are compiled
    graphs: bool = False  # whether the compiled UNet replays CUDA graphs
    replayed: bool = False  # whether whole steps are replayed, see `handtrain.graphs`
    micro_batch: MicroBatch = field(default_factory=MicroBatch)
    pose: PoseLayers | None = None  # attached to the UNet
    half: HalfCopy | None = None  # the UNet's copy that computes
    aside: bool = False  # whether all of the UNet but its adapters is in the computer's memory
    form: Form = UNET  # the way in which the network is called

    @property
    def timesteps(self) -> int:
        """The number of times of the noise schedule."""
        return int(self.schedule.config.num_train_timesteps)

    def losses(self, latents: Latents, draw: Draw, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the loss (b,) of each sample for one draw.

        Latents and draw may be on the CPU; the embeddings (b, tokens, width) must be on the model's device.
        """
        latents, draw = latents.to(self.device), draw.to(self.device)
        if self.pose is not None:
            self.pose.poses = latents.poses
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext():
            return noise_prediction_loss(
                self.unet if self.call is None else self.call,  # a compiled module has no truth value
                self.schedule,
                sample_latents(latents.mean, latents.deviation, draw.posterior, self.scaling),
                draw.noise,
                draw.timesteps,
                embeddings,
                latents.weights,
                latents.more,
                self.form,
            )


def sample_latents(mean: torch.Tensor, deviation: torch.Tensor, normal: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return latents (b, c, h, w) sampled from the VAE's posterior, times the model's scaling factor."""
    return (mean + deviation * normal) * scaling


def snr_weights(schedule: Any, timesteps: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the loss weights (b,) of min-SNR (Hang et al. 2023): min(snr, limit) / snr, for velocities / (snr + 1)."""
    alphas = schedule.alphas_cumprod[timesteps.cpu()].double()
    snr = alphas / (1 - alphas)
    velocity = schedule.config.prediction_type == "v_prediction"
    weights: torch.Tensor = (snr.clamp(max=limit) / (snr + 1 if velocity else snr)).float()
    return weights


def noise_prediction_loss(
    unet: Any,
    schedule: Any,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    embeddings: torch.Tensor,
    weights: torch.Tensor | None = None,
    more: Inputs | None = None,
    form: Form = UNET,
) -> torch.Tensor:
    """Return the loss (b,) of each sample: the mean squared error of the prediction (paper, section 3).

    latents and noise (b, c, h, w), timesteps (b,), embeddings (b, tokens, width), weights (b, 1, h, w) with mean 1 or
    None. `noised` has the target for a schedule; `more` are its further inputs, `form` the way to call it.
    """
    noisy, times, target = noised(schedule, latents, noise, timesteps)
    arguments, named = form.arguments(noisy, times, embeddings, more or {})
    predicted = form.prediction(unet(*arguments, **named))  # (b, c, h, w)
    squares = (predicted.float() - target.float()) ** 2  # (b, c, h, w)
    if weights is not None:
        squares = squares * weights
    return torch.mean(squares, dim=(1, 2, 3))  # (b,)
