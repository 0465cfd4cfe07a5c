"""The steps, disk space and time of a run, computed before it starts."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import torch

from handdata.errors import UserError
from handdata.files import require_writable_folder
from handtrain.data.rows import Row
from handtrain.method.batches import Order, steps_of
from handtrain.model.base import Base, empty_denoiser
from handtrain.presets import TrainOptions, prior_batch, routes
from handtrain.run.flops import Work, counted, flop_of, known_peak, measured_peak
from handtrain.run.footprint import SMALLEST_8_BIT, moment_bytes
from handtrain.run.memory import Memory, empty_inputs

_FLOAT = 4  # bytes
# Share of the peak in the estimated time. The best public figure for a UNet of this class is 0.335
# (Stable Diffusion 2 on H100s, MLPerf Training 4.1).
_SHARE = 0.3


@dataclass(frozen=True)
class Plan:
    """The counts and bytes of a run."""

    gesture: str
    images: int
    with_hand: int
    resolution: int
    network: str  # the kind of the network that training changes
    parameters: int  # of this network
    fusion_steps: int
    embedding_steps: int  # forward and backward passes of one image
    unet_steps: int
    unet_images: int  # passes of one image through Stage III
    disk_bytes: int

    def __str__(self) -> str:
        lines = [
            f"{self.images} images of {self.gesture}, {self.with_hand} with landmarks, at {self.resolution} px",
            f"{self.network} of {self.parameters:,} parameters",
            f"Stage I:   the mean landmarks of {self.with_hand} hands",
        ]
        if self.fusion_steps:
            lines.append(f"Stage II:  {self.fusion_steps:,} steps of the token fusion layer")
        lines += [
            f"Stage II:  {self.embedding_steps:,} embedding steps, counted per image",
            f"Stage III: {self.unet_steps:,} {self.network} steps",
            f"disk:      {_gib(self.disk_bytes)} at most, checkpoints included",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Cost:
    """The arithmetic of a run, and the device that computes it."""

    flop: float
    device: torch.device
    processes: int

    def __str__(self) -> str:
        known = known_peak(self.device)
        name = self.device
        source = f"the data sheet's bf16 peak of {name}" if known else f"the peak of {name} in a float32 matrix product"
        peak = (known or measured_peak(self.device)) * self.processes
        together = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        return (
            f"time:      {_duration(self.flop / (peak * _SHARE))} for {self.flop / 1e15:,.3g} PFLOP, if {_SHARE:.0%} "
            f"of {source} is reached ({peak / 1e12:,.3g} TFLOP/s for {together})"
        )


def training_flop(plan: Plan, base: Base) -> int:
    """Return the FLOP of encoding the images and of Stages II and III; samples and texts are left out."""
    work = work_of_base(base)
    return plan.images * work_of_vae(base)[0] + plan.embedding_steps * work.stage2 + plan.unet_images * work.stage3


def plan(gesture: str, rows: Sequence[Row], base: Base, options: TrainOptions) -> Plan:
    """Count the steps and bytes of a run on rows of one or several gestures."""
    count = len(rows)
    sizes = Memory(base).weights(options.lora_rank, routes(options))
    parameters = sizes.frozen + (0 if options.lora_rank else sum(sizes.trained))
    weights = parameters * _FLOAT  # bytes, like the sizes below
    tensors = (*sizes.trained, *sizes.layers)
    trained, moments = _FLOAT * sum(tensors), _stored_moments(tensors, options.optimizer)
    mean = trained if options.ema else 0
    by_image = options.order == "images"
    checkpoint = trained if by_image else trained + moments + mean
    others = [
        stored for name, of_part in base.weights.items() if name != base.backbone.TRAINED
        for stored in of_part.tensors.values()
    ]  # fmt: skip
    model_bytes = weights + _FLOAT * sum(math.prod(stored.shape) for stored in others)
    embeddings = count * base.sizes.tokens * base.sizes.width * _FLOAT
    order = stage3_order(options, (count,))
    steps = count * options.unet_epochs if by_image else order.steps
    token = options.fusion == "token" and options.lam < 1
    return Plan(
        gesture=gesture,
        images=count,
        with_hand=sum(row.landmarks is not None for row in rows),
        resolution=base.resolution,
        network="UNet" if base.backbone.TRAINED == "unet" else base.backbone.TRAINED,
        parameters=parameters,
        fusion_steps=steps_of(count, options.fusion_batch, options.fusion_epochs) if token else 0,
        embedding_steps=count * options.embedding_steps,
        unet_steps=steps,
        unet_images=count * options.unet_epochs if by_image else order.seen + order.steps * order.prior_batch,
        disk_bytes=3 * checkpoint + model_bytes + embeddings,  # two checkpoints are kept while a third is written
    )


def stage3_order(options: TrainOptions, groups: Sequence[int], prior: int = 0, part: str = "unet") -> Order:
    """Return the images of every Stage III step: `groups` are the rows of each gesture, `prior` of the base's own."""
    own = prior_batch(options)
    edges = [0, *accumulate(groups)]
    seen = edges[-1] * options.unet_epochs
    if options.unet_samples:
        seen = round(options.unet_samples * (options.unet_batch - own) / options.unet_batch)
    ranges = tuple(range(first, last) for first, last in pairwise(edges))
    last = edges[-1]
    return Order(ranges, options.unet_batch, seen, options.seed, part, range(last, last + prior), own)


def work_of_base(base: Base) -> Work:
    """Count the cost of one image for a base model at its resolution."""
    latent, text, images = empty_inputs(base)
    return counted(empty_denoiser(base), base.backbone.FORM, latent, text.embedding, {**text.more, **images})


def work_of_vae(base: Base) -> tuple[int, int]:
    """Return the FLOP of encoding an image and of decoding one."""
    vae, side = base.backbone.NETWORKS["vae"].empty(base.configs["vae"]), base.resolution
    channels = base.configs["vae"]["latent_channels"]
    with torch.device("meta"), torch.no_grad():
        pixels, latents = torch.empty(1, 3, side, side), torch.empty(1, channels, base.latent_side, base.latent_side)
        return flop_of(lambda: vae.encode(pixels)), flop_of(lambda: vae.decode(latents))


def ideal_seconds(base: Base, device: torch.device, processes: int) -> dict[int, float]:
    """Return by stage the seconds per image at the peak of all GPUs; empty for a GPU without a known peak."""
    peak = known_peak(device)
    if peak is None:
        return {}
    work = work_of_base(base)
    return {2: work.stage2 / peak / processes, 3: work.stage3 / peak / processes}


def require_room(plan: Plan, out: Path) -> None:
    """Raise `UserError` if the run folder is not writable, or its disk has too little space for the missing files."""
    require_writable_folder(out, "--out")
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    free = shutil.disk_usage(out).free
    if free + written < plan.disk_bytes:
        raise UserError(
            f"--out {out}: the run writes up to {_gib(plan.disk_bytes)}, {_gib(free)} are free: "
            "free disk space, or choose another folder"
        )


def _stored_moments(tensors: Sequence[int], optimizer: str) -> int:
    """Return the bytes of Adam's moments in a checkpoint, for trained tensors of these sizes.

    bitsandbytes has two tables of 256 numbers for all tensors in 8 bits; a checkpoint has them with every tensor.
    """
    tables = sum(2 * 256 * _FLOAT for size in tensors if size >= SMALLEST_8_BIT) if optimizer == "adam8bit" else 0
    return moment_bytes(tensors, optimizer) + tables


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
