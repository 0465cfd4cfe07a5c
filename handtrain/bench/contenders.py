"""The contenders of `handtrain bench`: the released code's loop, and our presets, each with a UNet of its own."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from handtrain.bench.released_loop import PlainLoop
from handtrain.graphs import Replayed
from handtrain.graphs import Step as GraphStep
from handtrain.method.batches import ahead
from handtrain.method.diffusion import Latents
from handtrain.method.embedding import optimise_embeddings
from handtrain.method.noise import Draw, image_draws
from handtrain.method.unet import Average, adam, require_grad, set_rate, tuning_step, warmed_up
from handtrain.presets import RunOptions, TrainOptions, options_of
from handtrain.run.device import diffusion, resolved
from handtrain.run.flops import Work, work_of

SCALING = 0.18215
TOKENS = 77
_IMAGES = 64  # random images and texts that the steps cycle through

# The differences to the class's defaults, which are Stable Diffusion 1's.
MODELS: dict[str, dict[str, Any]] = {
    "sd14": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "small": {  # 5,057,532 weights, images of 64 px
        "sample_size": 16,
        "block_out_channels": (40, 72, 128),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 128,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    },
    "tiny": {  # for tests
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
}

KINDS = ("blocks", "yes", "cuda-graphs")  # of compilation, see `RunOptions.compile`

Step = Callable[[int], int]  # number of the step -> number of images trained in it


@dataclass(frozen=True)
class Contender:
    """A way to train, as plain data: a preset with the options that differ from it, or the released code's loop."""

    preset: str = ""  # empty: the released code's loop
    batch: int = 0  # images per step of both stages; 0: the preset's
    compile: str = "no"
    checkpointing: bool = False
    graphs: bool = False  # steps of Stage III are replayed as CUDA graphs

    @property
    def name(self) -> str:
        """The name in the table."""
        if not self.preset:
            return f"plain loop, {'with' if self.checkpointing else 'without'} checkpointing"
        batch = f", batch {self.batch}" if self.batch else ""
        compiled = {"no": "", "yes": ", compiled"}.get(self.compile, f", compile {self.compile}")
        return f"preset {self.preset}{batch}{compiled}{', graphs' if self.graphs else ''}"

    def ready(self, scene: "Scene") -> "Plain | Ours":
        """Return the contender with its model."""
        return Ours(scene, self) if self.preset else Plain(scene, self.checkpointing)


def contenders(
    presets: Sequence[str], batches: Sequence[int], compiled: Sequence[str], graphs: bool = False
) -> list[Contender]:
    """Return the plain loops and every preset in all variants, those that compile for minutes last."""
    every = [Contender(), Contender(checkpointing=True)]
    ways = [("no", False), *([("no", True)] if graphs else []), *((kind, False) for kind in compiled)]
    every += [
        Contender(preset, batch, compile, graphs=replayed)
        for compile, replayed in dict.fromkeys(ways)
        for preset in presets
        for batch in dict.fromkeys((0, *batches))
    ]
    return every


@dataclass(frozen=True)
class Scene:
    """A contender's model and data: a UNet with random weights, random images and texts."""

    unet: Any
    schedule: Any
    device: torch.device
    latents: Latents  # (n, 4, h, w), on the CPU
    texts: torch.Tensor  # (n, TOKENS, width), on the CPU


def size_of(name: str) -> tuple[int, Work]:
    """Return the number of weights of a model in `MODELS` and the cost of one image, counted without computing it."""
    config = MODELS[name]
    network: Any = UNet2DConditionModel  # diffusers has no types
    with torch.device("meta"):
        unet: Any = network(**config)
    work = work_of(dict(unet.config), config["sample_size"], TOKENS, config["cross_attention_dim"])
    return sum(parameter.numel() for parameter in unet.parameters()), work


def make_scene(name: str, device: torch.device) -> Scene:
    """Return the scene of a model in `MODELS`."""
    network: Any = UNet2DConditionModel  # diffusers has no types
    config = MODELS[name]
    torch.manual_seed(0)
    unet: Any = network(**config).to(device).train()
    side, width = config["sample_size"], config["cross_attention_dim"]
    mean = torch.randn(_IMAGES, 4, side, side) / SCALING
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    texts = torch.randn(_IMAGES, TOKENS, width)
    return Scene(unet, DDPMScheduler(**betas), device, Latents(mean, torch.full_like(mean, 0.1)), texts)  # type: ignore[no-untyped-call]


class Plain:
    """The released code's loop as a contender."""

    def __init__(self, scene: Scene, checkpointing: bool) -> None:
        self.scene, self.checkpointing = scene, checkpointing

    def start(self, stage: int) -> Step:
        """Prepare the model as this contender trains it; return the function that makes one step."""
        s = self.scene
        s.unet.requires_grad_(True).set_attn_processor(AttnProcessor())
        if self.checkpointing:
            s.unet.enable_gradient_checkpointing()
        loop = PlainLoop(s.unet, s.schedule, (s.latents.mean * SCALING).to(s.device), s.texts.to(s.device))
        step = loop.embedding_step if stage == 2 else loop.unet_step

        def run(number: int) -> int:
            _require_finite(step(number))
            return 1

        return run


class Ours:
    """A preset as a contender, through the functions that training calls."""

    def __init__(self, scene: Scene, contender: Contender) -> None:
        self.scene = scene
        graphs: Literal["on", "off"] = "on" if contender.graphs else "off"
        running = replace(RunOptions(), compile=contender.compile, graphs=graphs)  # type: ignore[arg-type]
        options = options_of(contender.preset)
        if contender.batch:
            options = replace(options, unet_batch=contender.batch, embedding_batch=contender.batch)
        self.options: TrainOptions = resolved(options, replace(running, graphs="off"), scene.device)
        self.model = diffusion(scene.unet, scene.schedule, SCALING, self.options, running, scene.device)

    def start(self, stage: int) -> Step:
        """Prepare the model as this contender trains it; return the function that makes one step."""
        return self._stage2() if stage == 2 else self._stage3()

    def _stage2(self) -> Step:
        o, s = self.options, self.scene
        rows = [row % len(s.texts) for row in range(o.embedding_batch)]

        def run(number: int) -> int:
            if number % o.embedding_steps:
                return 0  # the first step of a batch makes all its steps
            draws = ahead(lambda step: self._draw(rows, number + step), range(o.embedding_steps), s.device)
            each = (draw for _, draw in draws)
            _, losses = optimise_embeddings(self.model, s.latents[rows], s.texts[rows], each, o.embedding_lr)
            _require_finite(float(losses.sum()))
            return o.embedding_steps * len(rows)

        return run

    def _stage3(self) -> Step:
        o, s = self.options, self.scene
        require_grad(s.unet)
        if self.model.half:
            self.model.half.follow(s.unet)
        optimiser = adam(s.unet.parameters(), o.unet_lr, replayed=self.model.replayed)

        def take(latents: Latents, draw: Draw, texts: torch.Tensor, count: int) -> torch.Tensor:
            return tuning_step(self.model, optimiser, latents, draw, texts, batch=count)

        step_of: GraphStep = take
        if self.model.replayed:
            step_of = Replayed(take, o.unet_batch, self.model, optimiser, Average(s.unet, decay=0))

        def load(step: int) -> tuple[torch.Tensor, Latents, Draw]:
            rows = [(step * o.unet_batch + row) % len(s.texts) for row in range(o.unet_batch)]
            return s.texts[rows], s.latents[rows].to(s.device), self._draw(rows, step)

        batches = ahead(load, range(sys.maxsize), s.device)

        def run(number: int) -> int:
            step, (texts, latents, draw) = next(batches)
            set_rate(optimiser.param_groups[0], warmed_up(o.unet_lr, step, o.unet_warmup))
            _require_finite(float(step_of(latents, draw, texts.to(s.device), o.unet_batch).mean()))
            return o.unet_batch

        return run

    def _draw(self, rows: list[int], step: int) -> Draw:
        s = self.scene
        keys, shape = [(str(row), step) for row in rows], tuple(s.latents.mean.shape[1:])
        return image_draws(0, "bench", keys, shape, s.schedule.config.num_train_timesteps).to(s.device)


def _require_finite(loss: float) -> None:
    assert loss == loss and abs(loss) < float("inf"), loss
