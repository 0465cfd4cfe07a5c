"""The options of a training run and the presets: one row of a table each."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from handdata.errors import UserError
from handdata.limits.numbers import require_ranges

# The metrics of --best-by, which the log names so. `evaluation.table` has others: distances of sets and both variants.
LOWER_IS_BETTER = {
    "validation_loss": True, "hand_found": False, "hand_confidence": False, "gesture_accuracy": False,
    "landmark_distance": True,
}  # fmt: skip
_BestBy: TypeAlias = Literal[tuple(LOWER_IS_BETTER)]  # type: ignore[valid-type]


@dataclass(frozen=True)
class TrainOptions:
    """The options that determine the trained weights; the defaults are the paper's (Hand1000, sections 3 and 4)."""

    # order of the stages: Stage II for all images, then Stage III, or both stages image after image (released code)
    order: Literal["stages", "images"] = "stages"
    lam: float = 0.7  # share of the text embedding in the double-fused embedding (paper: best for phone call)
    # fusion layer: one fixed random layer over all tokens, or one trained layer that every token passes through
    fusion: Literal["flat", "token"] = "flat"
    # landmarks in the gesture feature: as MediaPipe returns them, or centered, scaled and left hands mirrored
    feature: Literal["absolute", "normalised"] = "absolute"
    landmarks: Literal["dataset", "recompute"] = "dataset"  # source of the landmarks: the dataset, or a MediaPipe run
    crop: Literal["center", "hand"] = "center"  # square crop of the images; hand: moved to contain the annotated hand
    hand_weight: float = 1.0  # weight of the loss inside the hand's box relative to outside
    embedding_steps: int = 10  # Stage II: optimization steps per image
    embedding_batch: int = 16  # Stage II: images per batch; changes nothing but rounding
    embedding_lr: float = 1e-3  # Stage II: learning rate of Adam
    unet_epochs: int = 20  # Stage III: passes over the images
    unet_batch: int = 1  # Stage III: images per step, over all processes
    unet_lr: float = 1e-6  # Stage III: learning rate of Adam
    unet_warmup: int = 0  # Stage III: number of steps in which the learning rate rises to its value
    # Stage III: learning rate after the warm-up; linear: falls with the steps to a twentieth
    unet_decay: Literal["none", "linear"] = "none"
    unet_samples: int = 0  # Stage III: images in all steps together, in place of --unet-epochs; 0: by epochs
    unet_clip: float = 0.0  # Stage III: largest norm of the gradients; 0: no limit
    # Stage III: routes of the joints of each image's hand to the UNet, such as map,time,tokens; none: trained by text
    pose: str = "none"
    pose_rate: float = 4.0  # learning rate of the pose layers relative to that of the UNet
    pose_dropout: float = 0.1  # Stage III: share of images trained without their pose, for guidance
    text_dropout: float = 0.0  # Stage III: share of images trained without their text, for guidance
    # Stage III: density of the diffusion times; late: more of the noisy times, at which the composition forms
    times: Literal["uniform", "late", "middle", "early"] = "uniform"
    # Stage III: limit of the signal-to-noise ratio in the loss weights (5 is usual); 0: weights of 1
    min_snr: float = 0.0
    ema: float = 0.0  # Stage III: decay of the running mean of the weights, which is the result; 0: the last weights
    # Stage III: share of every batch that are the base model's own pictures of the texts without the gesture
    prior: float = 0.0
    prior_images: int = 256  # number of pictures that the base model draws for --prior
    fusion_epochs: int = 10  # token fusion: passes over the images before Stage II
    fusion_batch: int = 16  # token fusion: images per step
    fusion_lr: float = 1e-4  # token fusion: learning rate of Adam
    resolution: int = 0  # side of the training images in pixels; 0: the base model's
    limit: int = 0  # number of training images, the first by image_id; 0: all
    # precision of the UNet's computation; the trained weights stay float32; bf16: a copy of the UNet in bfloat16
    # computes; bf16-autocast: matrix products and convolutions alone; auto: bf16 on a GPU with bf16, else fp32
    precision: Literal["fp32", "bf16", "bf16-autocast", "auto"] = "fp32"
    optimizer: Literal["adam", "adam8bit"] = "adam"  # Stage III: adam8bit stores Adam's moments in 8 bits (CUDA only)
    # Stage III: rank of trained adapters (LoRA) instead of all weights, at a rate of about 1e-4; 0: all weights
    lora_rank: int = 0
    seed: int = 0  # random seed for the noise, the order of the images, the adapters and the flat layer
    # Stage III steps between evaluations on images generated for texts of `validation`, never of `test`; 0: none
    evaluate_every: int = 0
    evaluation_images: int = 16  # number of images per evaluation, always with the same texts and seeds
    best_by: _BestBy = "gesture_accuracy"  # metric that selects the best evaluation
    keep: Literal["last", "best"] = "last"  # weights of the model: the last, or those of the best evaluation
    patience: int = 0  # number of evaluations in a row without a better one that ends Stage III; 0: never
    # generator of the noise with --order images: cuda repeats the released code's, cpu is equal on every machine
    noise_device: Literal["cpu", "cuda"] = "cpu"


# Fixed numbers, so that a resumed run draws the same pictures
PRIOR_AT_ONCE = 16  # pictures of the base model
OBSERVED_AT_ONCE = 8  # images of a validation loss, and of an evaluation

ROUTES = ("map", "time", "tokens")  # choices of --pose; `method.conditioning` has the layers
_NOT_RELEASED = (
    "unet_warmup", "unet_decay", "unet_samples", "unet_clip", "pose", "text_dropout", "times", "min_snr", "ema",
    "prior",
)  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    """The options that change the weights by rounding at most; they may differ when a run is resumed."""

    # images per forward pass, whose gradients add up to the batch; 0: the whole batch (most memory); auto: the whole
    # batch, halved when memory runs out
    micro_batch: int | Literal["auto"] = 0
    gradient_checkpointing: bool = False  # compute activations twice to save memory; changes nothing else
    # torch.compile: blocks: the repeated blocks alone, which compile sooner and may have poses; yes: the whole network;
    # cuda-graphs: the whole, replayed as one CUDA graph per step (CUDA only)
    compile: Literal["no", "blocks", "yes", "cuda-graphs"] = "no"
    # replay every step of Stage III as one CUDA graph, without a compiler; auto: on a CUDA GPU, where it works (off by
    # default until it has been measured on one)
    graphs: Literal["auto", "on", "off"] = "off"
    # channels_last layout of the UNet's weights; auto: on a GPU that computes in bf16 and compiles the whole
    channels_last: Literal["auto", "yes", "no"] = "auto"
    checkpoint_minutes: float = 10.0  # minutes between checkpoints
    keep_checkpoints: bool = False  # keep the newest two, and one of the last step, when the run is finished
    sample_every: int = 1000  # Stage III steps between sample grids, the first before training; 0: none
    sample_prompts: int = 4  # number of rows of a sample grid, each a text of the validation split
    sample_seeds: int = 2  # number of columns of a sample grid, each a seed
    sample_steps: int = 20  # number of DDIM steps per sample
    validate_every: int = 1000  # Stage III steps between validation losses, the first before training; 0: none
    validation_images: int = 32  # number of images in the validation loss
    tensorboard: bool = True  # write TensorBoard files to RUN/tensorboard
    # send the log's numbers to a tracker too, which must be installed: trackio stores them on this machine, wandb sends
    # them to its server
    track: Literal["none", "trackio", "wandb"] = "none"
    safety_checker: bool = True  # include the base model's safety checker in RUN/model


@dataclass(frozen=True)
class Preset:
    """One row of the table: the options that differ from the defaults, and the expected scores."""

    changes: dict[str, Any] = field(default_factory=dict)
    scores: str = "not measured yet"


_FAST: dict[str, Any] = {"unet_batch": 16, "unet_lr": 1.6e-5, "unet_warmup": 50, "precision": "auto"}
_PLUS_2025: dict[str, Any] = {**_FAST, "crop": "hand", "feature": "normalised", "fusion": "token", "hand_weight": 2.0}
# The fusion drops out with lam 1: a gesture's feature is one constant. The pose differs from image to image. The prior,
# and no image of a gesture without its pose, keep the base's pictures where no pose is given (docs/benchmarks.md).
_PLUS: dict[str, Any] = {
    **_FAST, "lam": 1.0, "embedding_steps": 0, "crop": "hand", "pose": "map", "pose_rate": 10.0, "pose_dropout": 0.0,
    "hand_weight": 4.0, "prior": 0.25, "unet_batch": 32, "unet_lr": 3.2e-5, "unet_decay": "linear", "unet_clip": 1.0,
    "text_dropout": 0.1, "ema": 0.995,
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    # The paper's table 2, phone call against Stable Diffusion 1.4 on the same prompts.
    "paper": Preset({}, "FID -28.599, KID -0.017, FID-H -30.208, KID-H -0.041, HAND-CONF +0.053 against the base"),
    "reference": Preset(
        {"order": "images", "embedding_batch": 1}, "those of `paper`, if the released code is what the paper ran"
    ),
    # Rate x batch keeps rate x steps, the most that Adam can move a weight.
    "fast": Preset(_FAST, "those of `paper`"),
    # Its rate is that of `fast`, with rate x batch kept; the mini models were measured at 8e-4.
    "plus": Preset(_PLUS, "not measured on Stable Diffusion; on the mini models see docs/benchmarks.md"),
    # 512 steps, however few the images: 10, 30 and 100 drawn photographs were measured with a rate of 8e-4.
    "few": Preset(
        {**_PLUS, "unet_samples": 16384},
        "30 drawn photographs and a mini model: gesture accuracy 0 to 72 %; not measured on Stable Diffusion",
    ),
    "plus-2025": Preset(_PLUS_2025),  # what `plus` was until November 2026
    # A mini model is 400 times smaller and freshly trained: it needs larger steps than Stable Diffusion. The rate is
    # the best of 1e-4 to 8e-4 on `palm` (docs/benchmarks.md).
    "mini": Preset(
        {**_FAST, "unet_lr": 4e-4}, "on palm gesture accuracy +30 points, landmark distance -30 % against the base"
    ),
    "smoke": Preset(
        {"limit": 2, "embedding_steps": 2, "unet_batch": 2, "unet_epochs": 2, "fusion_epochs": 1}, "none: it only runs"
    ),
}


def trackers_of(running: RunOptions) -> list[str]:
    """Return the names of the trackers of a run."""
    return [*(["tensorboard"] if running.tensorboard else []), *([running.track] if running.track != "none" else [])]


def options_of(preset: str) -> TrainOptions:
    """Return the options of a preset. Raises `UserError` for an unknown name."""
    if preset not in PRESETS:
        raise UserError(f"unknown --preset {preset}: choose one of {', '.join(PRESETS)}")
    return replace(TrainOptions(), **PRESETS[preset].changes)


def check(options: TrainOptions) -> None:
    """Raise `UserError` for the first option with an invalid value."""
    require_ranges(options)
    _check_stage3(options)
    if (options.patience or options.keep == "best") and not options.evaluate_every:
        raise UserError("--keep best and --patience need evaluations during training: give --evaluate-every STEPS")
    if options.order == "images":
        _check_image_order(options)


def check_running(running: RunOptions, options: TrainOptions) -> None:
    """Raise `UserError` for an option of a run that is out of range, or that the options of training do not support."""
    require_ranges(running)
    if running.compile not in ("no", "blocks") and options.pose != "none":
        raise UserError(
            f"--compile {running.compile} does not support pose layers: use --compile blocks, or --pose none"
        )


def routes(options: TrainOptions) -> tuple[str, ...]:
    """Return the routes of --pose in a fixed order, none for `none`. Raises `UserError` for another word."""
    words = [word.strip() for word in options.pose.split(",")]
    if words == ["none"]:
        return ()
    for word in words:
        if word not in ROUTES:
            raise UserError(
                f"--pose {options.pose}: '{word}' is not a route: choose none, or some of {','.join(ROUTES)}"
            )
    return tuple(route for route in ROUTES if route in words)


def prior_batch(options: TrainOptions) -> int:
    """Return the number of images of a Stage III batch that are the base model's own."""
    return round(options.prior * options.unet_batch)


def _check_stage3(options: TrainOptions) -> None:
    routes(options)
    for name in ("pose_dropout", "text_dropout", "ema"):
        if getattr(options, name) == 1:
            raise UserError(f"--{name.replace('_', '-')} 1 must be below 1")
    if options.prior and not 0 < prior_batch(options) < options.unet_batch:
        raise UserError(
            f"--prior {options.prior} of a batch of {options.unet_batch} leaves no image of one kind: "
            "choose another share, or a larger --unet-batch"
        )


def _check_image_order(options: TrainOptions) -> None:
    if options.fusion == "token":
        raise UserError("--order images needs the released code's fixed layer: use --fusion flat, or --order stages")
    if options.unet_batch != 1 or options.embedding_batch != 1:
        raise UserError("--order images needs batch 1: leave --unet-batch and --embedding-batch at 1")
    if options.precision != "fp32" or options.optimizer != "adam" or options.lora_rank:
        raise UserError(
            "--order images repeats the released code: leave --precision at fp32, --optimizer at adam, --lora-rank at 0"
        )
    defaults = TrainOptions()
    for name in _NOT_RELEASED:
        if getattr(options, name) != getattr(defaults, name):
            raise UserError(f"--order images repeats the released code, which lacks --{name.replace('_', '-')}")
    if options.evaluate_every or options.keep != "last":
        raise UserError(
            "--order images repeats the released code, which has no evaluation: leave --evaluate-every at 0"
        )
