"""What a run will do and need, said before it starts."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from handdata.errors import UserError
from handtrain.data import Photographs
from handtrain.models import Base, unet_parameters
from handtrain.presets import TrainOptions
from handtrain.unet import steps_of

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Plan:
    """The counts and bytes of a run."""

    gesture: str
    images: int
    with_hand: int
    resolution: int
    parameters: int  # of the UNet
    fusion_steps: int
    embedding_steps: int  # forward and backward passes of one image
    unet_steps: int
    training_bytes: int  # weights, gradients and Adam's two moments, without activations
    disk_bytes: int

    def __str__(self) -> str:
        lines = [
            f"{self.images} images of {self.gesture}, {self.with_hand} with landmarks, at {self.resolution} px",
            f"UNet of {self.parameters:,} parameters",
            f"Stage I:   the mean landmarks of {self.with_hand} hands",
        ]
        if self.fusion_steps:
            lines.append(f"Stage II:  {self.fusion_steps:,} steps of the token fusion layer")
        lines += [
            f"Stage II:  {self.embedding_steps:,} embedding steps, counted per image",
            f"Stage III: {self.unet_steps:,} UNet steps",
            f"memory:    {_gib(self.training_bytes)} for weights, gradients and Adam, activations come on top",
            f"disk:      {_gib(self.disk_bytes)} at most, checkpoints included",
        ]
        return "\n".join(lines)


def plan(gesture: str, photographs: Photographs, base: Base, options: TrainOptions) -> Plan:
    """Count what a run will do and need."""
    count = len(photographs.rows)
    parameters = unet_parameters(base)
    weights = parameters * _FLOAT
    by_image = options.order == "images"
    checkpoint = weights if by_image else 3 * weights
    model = weights + sum(
        file.stat().st_size for file in base.folder.glob("*/*.safetensors") if file.parent.name != "unet"
    )
    embeddings = count * base.tokens * base.width * _FLOAT
    steps = count * options.unet_epochs if by_image else steps_of(count, options.unet_batch, options.unet_epochs)
    token = options.fusion == "token"
    return Plan(
        gesture=gesture,
        images=count,
        with_hand=sum(row.landmarks is not None for row in photographs.rows),
        resolution=base.check_resolution(options.resolution),
        parameters=parameters,
        fusion_steps=steps_of(count, options.fusion_batch, options.fusion_epochs) if token else 0,
        embedding_steps=count * options.embedding_steps,
        unet_steps=steps,
        training_bytes=4 * weights,
        disk_bytes=3 * checkpoint + model + embeddings,  # two checkpoints are kept while a third is written
    )


def require_disk(plan: Plan, out: Path) -> None:
    """Raise `UserError` if the run's folder has too little room for what is still to be written."""
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    free = shutil.disk_usage(out).free
    if free + written < plan.disk_bytes:
        raise UserError(
            f"--out {out}: the run writes up to {_gib(plan.disk_bytes)}, {_gib(free)} are free: "
            "free some, or choose another folder"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
