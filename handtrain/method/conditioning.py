"""Pose conditioning: layers that pass the joints of one hand to a UNet, and guidance towards the pose.

The text names a gesture; the joints place every finger. They reach the UNet by up to three routes: `tokens` after
the text embedding, a vector added to the `time` embedding, and a `map` of the joints added after the first
convolution. An unknown pose has a learnt value of its own. This module imports no other module of ours: published
models contain it in their one-file pipeline.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

POSE_NUMBERS = 64  # 21 joints x (x, y, z) in sides of the square image, then 1 for a left hand and -1 for a right one
TOKENS = 8  # behind those of the text
_INPUTS = 67  # see `normalised_pose`
_HIDDEN, _MAP_CHANNELS = 256, 64
_SPREAD = 0.6 / 16  # standard deviation of a joint's Gaussian, in sides of the image


class PoseLayers(torch.nn.Module):
    """The layers of the chosen routes.

    `poses` (b, 64) are those of the UNet's next call; a row of NaN leaves a pose open.
    """

    def __init__(self, routes: Sequence[str], width: int, time_width: int, channels: int) -> None:
        """Make the layers for text embeddings, time embeddings and a first convolution of these sizes.

        The layers of `map` and `time` start with an output of zero.
        """
        super().__init__()
        self.routes = tuple(routes)
        self.poses: torch.Tensor | None = None
        self.pose_guidance: float | None = None  # of `guided`; None: that of the text
        if "tokens" in routes:
            self.tokens = _Tokens(width)
        if "time" in routes:
            self.time = _network(_INPUTS, _HIDDEN, time_width)
            self.no_time = torch.nn.Parameter(torch.zeros(time_width))
            _zero(self.time[-1])
        if "map" in routes:
            self.map = torch.nn.Sequential(
                torch.nn.Conv2d(22, _MAP_CHANNELS, 3, padding=1),
                torch.nn.SiLU(),
                torch.nn.Conv2d(_MAP_CHANNELS, channels, 3, padding=1),
            )
            _zero(self.map[-1])

    def with_tokens(self, text: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (b, tokens, width) with those of the poses behind them."""
        if "tokens" not in self.routes:
            return text
        poses = self._current(text)
        return torch.cat([text, self.tokens(normalised_pose(poses), _known(poses)).to(text.dtype)], dim=1)

    def add_time(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Add the poses to a time embedding (b, width): a forward hook."""
        poses = self._current(output)
        vectors = torch.where(_known(poses)[:, None], self.time(normalised_pose(poses)), self.no_time)
        added: torch.Tensor = output + vectors.to(output.dtype)
        return added

    def add_map(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Add the joint maps to the first convolution's output (b, channels, h, w): a forward hook."""
        poses = self._current(output)
        added: torch.Tensor = output + self.map(joint_maps(poses, output.shape[2], output.shape[3])).to(output.dtype)
        return added

    def _current(self, batch: torch.Tensor) -> torch.Tensor:
        if self.poses is None:
            return torch.full((len(batch), POSE_NUMBERS), torch.nan, device=batch.device)
        return self.poses.to(batch.device)


class _Tokens(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(_INPUTS, _HIDDEN), torch.nn.SiLU(), _network(_HIDDEN, _HIDDEN, TOKENS * width)
        )
        self.norm = torch.nn.LayerNorm(width)
        self.places = torch.nn.Parameter(torch.randn(TOKENS, width))
        self.none = torch.nn.Parameter(torch.randn(TOKENS, width))

    def forward(self, numbers: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.net(numbers).view(len(numbers), TOKENS, -1)) + self.places  # (b, 8, width)
        return torch.where(known[:, None, None], tokens, self.none.expand_as(tokens))


def normalised_pose(poses: torch.Tensor) -> torch.Tensor:
    """Return the inputs (b, 67) of the layers: the hand's shape about its center, its depth, place, size and side."""
    poses = poses.nan_to_num()
    joints, side = poses[:, :63].view(-1, 21, 3), poses[:, 63:]
    flat, depth = joints[:, :, :2], joints[:, :, 2:]
    center = flat.mean(dim=1, keepdim=True)  # (b, 1, 2)
    size = (flat - center).abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-3)  # (b, 1, 1)
    shape = ((flat - center) / size).flatten(1)  # (b, 42)
    relief = ((depth - depth.mean(dim=1, keepdim=True)) / size).flatten(1)  # (b, 21)
    return torch.cat([shape, relief, 4 * (center[:, 0] - 0.5), 4 * size[:, 0] - 1, side], dim=1)


def joint_maps(poses: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a Gaussian for each joint and a plane of ones (b, 22, height, width); all zeros without a pose."""
    joints = poses.nan_to_num()[:, :63].view(-1, 21, 3)
    y = (torch.arange(height, device=poses.device) + 0.5) / height
    x = (torch.arange(width, device=poses.device) + 0.5) / width
    squares = (joints[:, :, 0, None, None] - x) ** 2 + (joints[:, :, 1, None, None] - y[:, None]) ** 2
    maps = torch.exp(-squares / (2 * _SPREAD**2))  # (b, 21, height, width)
    maps = torch.cat([maps, torch.ones_like(maps[:, :1])], dim=1)
    return maps * _known(poses)[:, None, None, None]


def make_pose_layers(unet: Any, routes: Sequence[str], seed: int = 0) -> PoseLayers:
    """Return new layers for a UNet, initialized from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        times, channels = unet.time_embedding.linear_2.out_features, unet.conv_in.out_channels
        return PoseLayers(routes, unet.config.cross_attention_dim, times, channels)


def attach(unet: Any, layers: PoseLayers) -> None:
    """Let a UNet read `layers.poses` in every call. Its weights, configuration and files stay the same."""
    plain = unet.forward

    def forward(sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **more: Any) -> Any:
        if layers.pose_guidance is None:
            return plain(sample, timestep, layers.with_tokens(encoder_hidden_states), **more)
        return _in_branches(plain, layers, sample, timestep, encoder_hidden_states, **more)

    unet.forward = forward
    if "time" in layers.routes:
        unet.time_embedding.register_forward_hook(layers.add_time)
    if "map" in layers.routes:
        unet.conv_in.register_forward_hook(layers.add_map)


@contextmanager
def guided(layers: PoseLayers, poses: torch.Tensor, guidance: float, pose_guidance: float | None) -> Iterator[None]:
    """Make a diffusers pipeline draw `poses` (n, 64) with these scales of guidance towards the text and the pose.

    The pipeline's batch is n images, or with guidance above 1 n without their text and n with it. With equal scales
    (or `pose_guidance` None) text and pose are one condition; else a third branch, text without pose, separates them.
    """
    equal = pose_guidance is None or pose_guidance == guidance
    nothing = torch.full_like(poses, torch.nan)
    layers.pose_guidance = None if equal else pose_guidance
    layers.poses = torch.cat([nothing, poses]) if equal and guidance > 1 else poses
    try:
        yield
    finally:
        layers.poses = layers.pose_guidance = None


def _in_branches(
    plain: Any, layers: PoseLayers, sample: torch.Tensor, timestep: Any, text: torch.Tensor, **more: Any
) -> Any:
    """Return predictions from which the pipeline's own guidance makes the sum of both guidances.

    e = e(0, 0) + g (e(T, 0) - e(0, 0)) + p (e(T, P) - e(T, 0)): the last term is added to both halves of the batch.
    """
    poses, scale = layers.poses, layers.pose_guidance
    assert poses is not None and scale is not None
    count = len(poses)
    sample, text = (torch.cat([tensor, tensor[-count:]]) for tensor in (sample, text))
    if added := more.get("added_cond_kwargs"):  # of Stable Diffusion XL
        added = {name: torch.cat([tensor, tensor[-count:]]) for name, tensor in added.items()}
        more = {**more, "added_cond_kwargs": added}
    layers.poses = torch.cat([torch.full_like(poses, torch.nan)] * (len(sample) // count - 1) + [poses])
    try:
        predicted = plain(sample, timestep, layers.with_tokens(text), **{**more, "return_dict": False})[0]
    finally:
        layers.poses = poses
    *others, without, posed = torch.split(predicted, count)
    change = scale * (posed - without)
    return (torch.cat([part + change for part in (*others, without)]),)


def _known(poses: torch.Tensor) -> torch.Tensor:
    return ~poses.isnan().any(dim=1)  # (b,)


def _network(inputs: int, hidden: int, outputs: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.SiLU(), torch.nn.Linear(hidden, outputs))


def _zero(layer: Any) -> None:
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
