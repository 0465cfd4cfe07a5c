"""Options of generation and evaluation. Quick to import: the flags are built from them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from handdata.errors import UserError, require_known
from handdata.limits.numbers import require_ranges

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class GenerateOptions:
    """Options that decide the pixels, together with model, prompts and seeds."""

    mu: float | None = None  # share of the plain text embedding, 0 to 1; default: the lam of the training
    # sampler of the images; reference: the released code's 46 steps with the same noise for all prompts
    sampler: Literal["ddim", "reference"] = "ddim"
    steps: int = 45  # number of DDIM steps (released code: 45, which are 46 in its sampler)
    # scale of classifier-free guidance; default: 3 (released code), 2 for a model trained with poses
    guidance: float | None = None
    eta: float = 0.0  # amount of noise that DDIM adds in each step; 0: none
    negative_prompt: str = ""  # negative prompt, encoded without the gesture
    resolution: int = 0  # side of the images in pixels; 0: the model's
    # pose of the hand, for a model trained with poses: own (of the gesture that the prompt names), none, rows (of the
    # dataset's rows of --prompts), a gesture, or a file: a photograph or JSON with landmarks
    pose: str = "own"
    pose_guidance: float | None = None  # scale of the guidance towards the pose; default: that of --guidance
    # number format of the networks; auto: bf16 on a GPU that supports it, else fp32
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "auto"


@dataclass(frozen=True)
class EvaluateOptions:
    """Options that decide the numbers of an evaluation."""

    # resize and crop both sides to the size of the generated images, or leave images as they are
    prepare: Literal["auto", "none"] = "auto"
    # crop of the real images; auto: the one that the model was trained with, else center
    crop: Literal["auto", "center", "hand"] = "auto"
    # standard leaves out the metrics computed as in the released code, which take half of the time
    variants: Literal["both", "standard"] = "both"
    bootstrap: int = 100  # number of bootstrap draws for the intervals of distances
    clip: str = "hf:openai/clip-vit-base-patch32"  # model of the CLIP score: hf:USER/NAME, a folder, or none
    # model of FD-DINOv2, precision and recall: hf:facebook/dinov2-large (1.2 GB), a folder, or none
    dinov2: str = "none"
    # model of CMMD: hf:openai/clip-vit-large-patch14-336 (1.7 GB), a folder, or none
    cmmd: str = "none"
    # weights file to use in place of the verified one (`handdata assets inception-fid`)
    inception_fid: Path | None = None
    # weights file to use in place of the verified one (`handdata assets inception-torchvision`)
    inception_torchvision: Path | None = None
    seed: int = 0  # random seed of the bootstrap draws


def changed(changes: Mapping[str, Any], *options: Any) -> tuple[Any, ...]:
    """Return options dataclasses with the fields that `changes` names replaced.

    Raises `UserError` for a name that no dataclass has, naming the nearest field, for a value that is not among the
    choices of a field, and for a number out of range.
    """
    hints = {name: hint for each in options for name, hint in get_type_hints(type(each)).items()}
    for name, value in changes.items():
        require_known(name, hints, "option")
        if get_origin(hints[name]) is Literal and value not in get_args(hints[name]):
            raise UserError(f"{name}={value!r}: choose one of {', '.join(get_args(hints[name]))}")
    own = [{f.name: changes[f.name] for f in fields(each) if f.name in changes} for each in options]
    replaced = tuple(replace(each, **values) for each, values in zip(options, own, strict=True))
    for each in replaced:
        require_ranges(each)
    return replaced


def recorded(options: "DataclassInstance") -> dict[str, Any]:
    """Return options as they are written to a JSON file."""
    record: dict[str, Any] = json.loads(json.dumps(asdict(options), default=str))
    return record
