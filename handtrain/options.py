"""What decides generated images and their evaluation. Light to import, since the flags are made from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class GenerateOptions:
    """What decides the pixels, beside model, prompts and seeds."""

    mu: float | None = None  # share of the plain text embedding, 0 to 1; default: the lam of the training
    sampler: Literal["ddim", "reference"] = "ddim"  # reference: the released code's 46 steps, one noise for all prompts
    steps: int = 45  # of DDIM (released code: 45, which in its sampler are 46)
    guidance: float = 3.0  # classifier-free guidance (released code)
    eta: float = 0.0  # noise that DDIM adds; 0: none
    negative_prompt: str = ""  # is encoded plainly, without the gesture
    resolution: int = 0  # pixels; 0: the model's
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the networks


@dataclass(frozen=True)
class EvaluateOptions:
    """What decides the numbers of an evaluation."""

    # bring both sides to the generated size and crop, or leave images as they are
    prepare: Literal["auto", "none"] = "auto"
    # of real images; auto: what the model was trained with, else center
    crop: Literal["auto", "center", "hand"] = "auto"
    variants: Literal["both", "standard"] = "both"  # standard leaves out the released code's ways, half of the time
    bootstrap: int = 100  # draws behind the intervals of distances
    clip: str = "hf:openai/clip-vit-base-patch32"  # model of the CLIP score: hf:USER/NAME, a folder, or none
    inception_fid: Path | None = None  # other weights than the verified ones (`handdata assets inception-fid`)
    inception_torchvision: Path | None = None  # likewise (`handdata assets inception-torchvision`)
    seed: int = 0  # of the draws
