"""The options of a training run and the presets: one row of a table each."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from handdata.errors import UserError


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides the trained weights, with the paper's values as defaults (Hand1000, sections 3 and 4)."""

    # Stage II over the whole set first, or image after image (released code)
    order: Literal["stages", "images"] = "stages"
    lam: float = 0.7  # share of the text embedding in the double-fused embedding (paper: best for phone call)
    # fixed random layer over all tokens, or one trained layer for every token
    fusion: Literal["flat", "token"] = "flat"
    # landmarks as found, or centred, scaled, left hands mirrored
    feature: Literal["absolute", "normalised"] = "absolute"
    landmarks: Literal["dataset", "recompute"] = "dataset"  # take the dataset's landmarks, or run MediaPipe once more
    crop: Literal["center", "hand"] = "center"  # where the square lies on the long side; hand: holds the annotated hand
    hand_weight: float = 1.0  # weight of the loss inside the hand's box against outside it
    embedding_steps: int = 10  # Stage II: optimisation steps per image
    embedding_batch: int = 16  # Stage II: images at once; changes nothing but rounding
    embedding_lr: float = 1e-3  # Stage II: learning rate of Adam
    unet_epochs: int = 20  # Stage III: passes over the images
    unet_batch: int = 1  # Stage III: images per step, over all processes
    unet_lr: float = 1e-6  # Stage III: learning rate of Adam
    unet_warmup: int = 0  # Stage III: steps over which the rate rises to its value
    fusion_epochs: int = 10  # token fusion: passes over the images before Stage II
    fusion_batch: int = 16  # token fusion: images per step
    fusion_lr: float = 1e-4  # token fusion: learning rate of Adam
    resolution: int = 0  # pixels; 0: what the base model's configuration says
    limit: int = 0  # only the first so many images; 0: all
    # of products and convolutions; the weights stay float32; auto: bf16 on a GPU that has it, else fp32
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    optimizer: Literal["adam", "adam8bit"] = "adam"  # Stage III: adam8bit keeps Adam's moments in 8 bits (CUDA only)
    # Stage III: train adapters of this rank (LoRA) instead of all weights, at a rate of about 1e-4; 0: all weights
    lora_rank: int = 0
    seed: int = 0  # of the noise, the order of the images, the adapters and the flat layer
    # Stage III steps between evaluations of images drawn for texts of `validation`, never of `test`; 0: none
    evaluate_every: int = 0
    evaluation_images: int = 16  # of each evaluation, always the same texts and seeds
    # the metric that says which evaluation was best
    best_by: Literal["validation_loss", "hand_found", "hand_confidence", "gesture_accuracy", "landmark_distance"] = (
        "gesture_accuracy"
    )
    keep: Literal["last", "best"] = "last"  # weights that become the model: the last, or those of the best evaluation
    patience: int = 0  # end Stage III after so many evaluations in a row without a better one; 0: never
    # order images: cuda draws the released code's noise, cpu the same everywhere
    noise_device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class RunOptions:
    """How a run works and what it shows; may change when a run is continued, for the weights it is at most rounding."""

    # images per forward pass, gradients add up to the batch; 0: the whole batch (most memory); auto: the whole batch,
    # halved where memory does not suffice
    micro_batch: int | Literal["auto"] = 0
    gradient_checkpointing: bool = False  # compute activations twice to save memory; changes nothing else
    # torch.compile for the UNet; cuda-graphs: replayed as one launch per step (CUDA only)
    compile: Literal["no", "yes", "cuda-graphs"] = "no"
    channels_last: Literal["auto", "yes", "no"] = (
        "auto"  # layout of the UNet's weights; auto: where it computes in bf16
    )
    checkpoint_minutes: float = 10.0  # time between checkpoints
    sample_every: int = 1000  # Stage III steps between sample grids, the first before training; 0: none
    sample_prompts: int = 4  # rows of a sample grid: texts of the validation split
    sample_seeds: int = 2  # columns of a sample grid
    sample_steps: int = 20  # DDIM steps of a sample
    validate_every: int = 1000  # Stage III steps between validation losses, the first before training; 0: none
    validation_images: int = 32  # images of the validation split in that loss
    tensorboard: bool = True  # write RUN/tensorboard
    safety_checker: bool = True  # keep the base model's safety checker in RUN/model


@dataclass(frozen=True)
class Preset:
    """One row of the table: what differs from the defaults, and the scores that it should reach."""

    changes: dict[str, Any] = field(default_factory=dict)
    scores: str = "not measured yet"


_FAST: dict[str, Any] = {"unet_batch": 16, "unet_lr": 1.6e-5, "unet_warmup": 50, "precision": "auto"}
_PLUS: dict[str, Any] = {**_FAST, "crop": "hand", "feature": "normalised", "fusion": "token", "hand_weight": 2.0}

PRESETS: dict[str, Preset] = {
    # The paper's table 2, phone call against Stable Diffusion 1.4 on the same prompts.
    "paper": Preset({}, "FID -28.599, KID -0.017, FID-H -30.208, KID-H -0.041, HAND-CONF +0.053 against the base"),
    "reference": Preset(
        {"order": "images", "embedding_batch": 1}, "those of `paper`, if the released code is what the paper ran"
    ),
    # Rate x batch keeps rate x steps, the most that Adam can move a weight.
    "fast": Preset(_FAST, "those of `paper`"),
    "plus": Preset(_PLUS),
    # A mini model is 400 times smaller and freshly trained: it takes and needs larger steps than Stable Diffusion. Of
    # 1e-4 to 8e-4, on `palm` (docs/benchmarks.md).
    "mini": Preset(
        {**_FAST, "unet_lr": 4e-4}, "on palm gesture accuracy +30 points, landmark distance -30 % against the base"
    ),
    "smoke": Preset(
        {"limit": 2, "embedding_steps": 2, "unet_batch": 2, "unet_epochs": 2, "fusion_epochs": 1}, "none: it only runs"
    ),
}


def options_of(preset: str) -> TrainOptions:
    """Return the options of a preset. An unknown name raises `UserError` naming the known ones."""
    if preset not in PRESETS:
        raise UserError(f"--preset {preset} is not known: choose one of {', '.join(PRESETS)}")
    return replace(TrainOptions(), **PRESETS[preset].changes)


def check(options: TrainOptions) -> None:
    """Raise `UserError` for the first option whose value makes no sense."""
    if not 0 <= options.lam <= 1:
        raise UserError(f"--lam {options.lam} is outside 0 to 1: the paper's best is 0.7")
    for name in ("embedding_batch", "unet_batch", "fusion_batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} must be at least 1")
    for name in ("embedding_lr", "unet_lr", "fusion_lr", "hand_weight"):
        if getattr(options, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} must be above 0")
    for name in ("embedding_steps", "unet_epochs", "fusion_epochs", "unet_warmup", "resolution", "limit", "lora_rank"):
        if getattr(options, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} must not be below 0")
    if options.order == "images":
        _check_image_order(options)


def _check_image_order(options: TrainOptions) -> None:
    if options.fusion == "token":
        raise UserError("--order images has the released code's fixed layer: use --fusion flat, or --order stages")
    if options.unet_batch != 1 or options.embedding_batch != 1:
        raise UserError("--order images works at batch 1: leave --unet-batch and --embedding-batch at 1")
    if options.precision != "fp32" or options.optimizer != "adam" or options.lora_rank:
        raise UserError(
            "--order images repeats the released code: leave --precision at fp32, --optimizer at adam, --lora-rank at 0"
        )
    if options.evaluate_every or options.keep != "last":
        raise UserError("--order images repeats the released code, which judges nothing: leave --evaluate-every at 0")


def check_running(running: RunOptions) -> None:
    """Raise `UserError` for the first option of a run whose value makes no sense."""
    if running.micro_batch != "auto" and running.micro_batch < 0:
        raise UserError(f"--micro-batch {running.micro_batch} must not be below 0: say 0 for the whole batch, or auto")
