"""Time our presets against the plain loop of the released code: same model, same machine, same run, turn by turn."""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from handdata.errors import UserError
from handdata.machine import choose_device
from handtrain.bench.released_loop import EMBEDDING_STEPS, UNET_STEPS, PlainLoop
from handtrain.method.batches import ahead
from handtrain.method.diffusion import Latents
from handtrain.method.embedding import optimise_embeddings
from handtrain.method.noise import Draw, image_draws
from handtrain.method.unet import adam, require_grad, tuning_step, warmed_up
from handtrain.presets import RunOptions, TrainOptions, options_of
from handtrain.run import device as compute
from handtrain.run.device import restart_peak, top_mib
from handtrain.run.flops import Work, known_peak, measured_peak, work_of

CHUNK = 20  # steps of a turn: two images of the plain loop's Stage II, one of its Stage III
STAGES = (2, 3)
SCALING = 0.18215

# What differs from the class's defaults, which are Stable Diffusion 1's.
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
    "tiny": {  # to see whether it runs
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
TOKENS = 77


@dataclass(frozen=True)
class Job:
    """What the command line of `handtrain bench` says."""

    model: str = "auto"
    presets: tuple[str, ...] = ("paper", "fast")
    steps: int = 200
    warmup: int = 3
    images: int = 1000
    compile: str = "no"
    device: str = "auto"
    json: Path | None = None


@dataclass(frozen=True)
class Scene:
    """What all contenders work on: one UNet, whose weights are random, and images and texts that are."""

    unet: Any
    schedule: Any
    device: torch.device
    latents: Latents  # (n, 4, h, w), on the CPU
    texts: torch.Tensor  # (n, TOKENS, width), on the CPU
    work: Work


class Plain:
    """The released code's loop as a contender."""

    def __init__(self, scene: Scene, checkpointing: bool) -> None:
        self.scene, self.checkpointing = scene, checkpointing
        self.name = f"plain loop, {'with' if checkpointing else 'without'} checkpointing"

    def start(self, stage: int) -> Callable[[int], int]:
        """Make the model what this contender trains; return its step, which returns the number of its images."""
        s = self.scene
        s.unet.to(memory_format=torch.contiguous_format).requires_grad_(True).set_attn_processor(AttnProcessor())
        _set_checkpointing(s.unet, self.checkpointing)
        loop = PlainLoop(s.unet, s.schedule, (s.latents.mean * SCALING).to(s.device), s.texts.to(s.device))
        step = loop.embedding_step if stage == 2 else loop.unet_step

        def run(number: int) -> int:
            _require_finite(step(number))
            return 1

        return run


class Ours:
    """A preset as a contender: the functions that training calls."""

    def __init__(self, scene: Scene, preset: str, compiled: str) -> None:
        self.scene, self.name = scene, f"preset {preset}"
        running = replace(RunOptions(), compile=compiled)  # type: ignore[arg-type]
        self.options: TrainOptions = compute.resolved(options_of(preset), running, scene.device)
        self.layout = torch.channels_last if self.options.precision == "bf16" else torch.contiguous_format
        if scene.device.type != "cuda":
            self.layout = torch.contiguous_format
        self.model = compute.diffusion(scene.unet, scene.schedule, SCALING, self.options, running, scene.device)

    def start(self, stage: int) -> Callable[[int], int]:
        """Make the model what this contender trains; return its step, which returns the number of its images."""
        s = self.scene
        s.unet.to(memory_format=self.layout).requires_grad_(False)
        s.unet.set_attn_processor(AttnProcessor2_0())  # type: ignore[no-untyped-call]
        _set_checkpointing(s.unet, False)
        return self._stage2() if stage == 2 else self._stage3()

    def _stage2(self) -> Callable[[int], int]:
        o, s = self.options, self.scene
        rows = [row % len(s.texts) for row in range(o.embedding_batch)]

        def run(number: int) -> int:
            if number % o.embedding_steps:
                return 0  # all steps of a batch were made with its first
            drawn = (one for _, one in ahead(self._drawing(rows, number), range(o.embedding_steps), s.device))
            _, losses = optimise_embeddings(self.model, s.latents[rows], s.texts[rows], drawn, o.embedding_lr)
            _require_finite(float(losses.sum()))
            return o.embedding_steps * len(rows)

        return run

    def _stage3(self) -> Callable[[int], int]:
        o, s = self.options, self.scene
        require_grad(s.unet)
        optimiser = adam(s.unet.parameters(), o.unet_lr)

        def load(step: int) -> tuple[torch.Tensor, Latents, Draw]:
            rows = [(step * o.unet_batch + row) % len(s.texts) for row in range(o.unet_batch)]
            return s.texts[rows], s.latents[rows].to(s.device), self._draw(rows, step)

        batches = ahead(load, range(sys.maxsize), s.device)

        def run(number: int) -> int:
            step, (texts, latents, draw) = next(batches)
            optimiser.param_groups[0]["lr"] = warmed_up(o.unet_lr, step, o.unet_warmup)
            _require_finite(float(tuning_step(self.model, optimiser, latents, draw, texts.to(s.device)).mean()))
            return o.unet_batch

        return run

    def _drawing(self, rows: list[int], first: int) -> Callable[[int], Draw]:
        return lambda step: self._draw(rows, first + step)

    def _draw(self, rows: list[int], step: int) -> Draw:
        shape = tuple(self.scene.latents.mean.shape[1:])
        keys = [(str(row), step) for row in rows]
        return image_draws(0, "bench", keys, shape, self.scene.schedule.config.num_train_timesteps).to(
            self.scene.device
        )


def bench(job: Job) -> int:
    """Time every contender in both stages, print a table and return the exit code."""
    if job.steps < CHUNK or job.steps % CHUNK:
        raise UserError(f"--steps {job.steps} must be a multiple of {CHUNK}, the steps of one turn")
    device = choose_device(job.device)
    name = job.model if job.model != "auto" else ("sd14" if device.type == "cuda" else "small")
    scene = _scene(name, device)
    contenders: list[Plain | Ours] = [Plain(scene, False), Plain(scene, True)]
    contenders += [Ours(scene, one, job.compile) for one in job.presets]
    turns = measure(contenders, device, job.steps // CHUNK, job.warmup)
    known = known_peak(device)
    peak = known or measured_peak(device)
    found = {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in scene.unet.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "steps": job.steps,
        "peak_flops": peak,
        "peak_source": "data sheet, bf16" if known else "measured, a float32 matrix product",
        "images": job.images,
        "work": asdict(scene.work),
        "contenders": summary(turns, scene.work, peak, job.images),
    }
    print(table(found))
    if job.json:
        job.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


@dataclass(frozen=True)
class Turn:
    """One contender's turn at one stage."""

    images: int
    seconds: float
    peak_mib: float


def measure(
    contenders: Sequence[Plain | Ours], device: torch.device, rounds: int, warmup: int
) -> dict[str, dict[int, list[Turn]]]:
    """Return by contender and stage its turns. In each round everybody has one turn of `CHUNK` timed steps.

    Before the timed steps there are `warmup` untimed ones, in which an optimiser that lives on makes its moments.
    """
    from tqdm import tqdm

    turns: dict[str, dict[int, list[Turn]]] = {one.name: {stage: [] for stage in STAGES} for one in contenders}
    order = [(stage, one) for _ in range(rounds) for stage in STAGES for one in contenders]
    for stage, one in tqdm(order, desc="turns", unit="turn", disable=None):
        run = one.start(stage)
        for step in range(-warmup, 0):
            run(step * UNET_STEPS if stage == 2 else step)
        restart_peak(device)
        start = time.perf_counter()
        images = sum(run(step) for step in range(CHUNK))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        turns[one.name][stage].append(Turn(images, time.perf_counter() - start, top_mib(device)))
        del run
        for parameter in one.scene.unet.parameters():
            parameter.grad = None
        gc.collect()
    return turns


def summary(turns: dict[str, dict[int, list[Turn]]], work: Work, peak: float, images: int) -> dict[str, dict[str, Any]]:
    """Return what the turns say: medians over the rounds, and ratios to the first contender within each round."""
    flop = {2: work.stage2, 3: work.stage3}
    seconds = {name: _gesture_seconds(of_stage, images) for name, of_stage in turns.items()}
    baseline = next(iter(seconds.values()))
    found: dict[str, dict[str, Any]] = {}
    for name, of_stage in turns.items():
        ratios = [plain / mine for plain, mine in zip(baseline, seconds[name], strict=True)]
        found[name] = {
            "gesture_seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
        for stage, one in of_stage.items():
            speed = statistics.median(turn.images / turn.seconds for turn in one)
            found[name][f"stage{stage}"] = {
                "timed_images": sum(turn.images for turn in one),
                "images_per_s": speed,
                "mfu": speed * flop[stage] / peak,
                "peak_mib": max(turn.peak_mib for turn in one),
            }
    return found


def table(found: dict[str, Any]) -> str:
    """Return the figures as a Markdown table with what must be said beside it."""
    lines = [
        "| | Stage II images/s | MFU | peak MiB | Stage III images/s | MFU | peak MiB "
        "| one gesture, extrapolated | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found["contenders"].items():
        stages = [
            f"{stage['images_per_s']:.2f} | {stage['mfu']:.1%} | {stage['peak_mib']:,.0f}"
            for stage in (one["stage2"], one["stage3"])
        ]
        low, high = one["ratio_range"]
        hours = f"{one['gesture_seconds'] / 3600:.2f} h"
        lines.append(f"| {name} | {' | '.join(stages)} | {hours} | {one['ratio']:.2f} ({low:.2f} to {high:.2f}) |")
    lines += [
        "",
        f"UNet of {found['parameters']:,} random weights on {found['device']} ({found['threads']} CPU threads, torch "
        f"{found['torch']}); {found['steps']} timed steps a stage, in turns of {CHUNK}; medians of the turns.",
        f"One gesture is {found['images']:,} images with {EMBEDDING_STEPS} steps of Stage II and {UNET_STEPS} of Stage "
        "III each, extrapolated from these steps, without encoding, samples and checkpoints.",
        f"MFU counts the work that a stage needs, against {found['peak_flops'] / 1e12:,.3g} TFLOP/s "
        f"({found['peak_source']}). Peak memory is {_memory(found['device'])}.",
    ]
    return "\n".join(lines)


def _memory(device: str) -> str:
    return "that of the whole process" if device == "cpu" else "that of tensors on the GPU"


def _gesture_seconds(turns: dict[int, list[Turn]], images: int) -> list[float]:
    """Return by round the seconds that one gesture would take."""
    passes = {2: EMBEDDING_STEPS, 3: UNET_STEPS}
    rounds = zip(*(turns[stage] for stage in STAGES), strict=True)
    return [
        sum(images * passes[stage] * turn.seconds / turn.images for stage, turn in zip(STAGES, both, strict=True))
        for both in rounds
    ]


def _scene(name: str, device: torch.device) -> Scene:
    import diffusers

    make: Any = diffusers.UNet2DConditionModel  # diffusers has no types
    config, schedule = MODELS[name], diffusers.DDPMScheduler
    torch.manual_seed(0)
    unet: Any = make(**config).to(device).train()
    side, width, count = config["sample_size"], config["cross_attention_dim"], 64
    mean = torch.randn(count, 4, side, side) / SCALING
    work = work_of(dict(unet.config), side, TOKENS, width)
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    texts = torch.randn(count, TOKENS, width)
    return Scene(unet, schedule(**betas), device, Latents(mean, torch.full_like(mean, 0.1)), texts, work)  # type: ignore[no-untyped-call]


def _set_checkpointing(unet: Any, on: bool) -> None:
    if on:
        unet.enable_gradient_checkpointing()
    else:
        unet.disable_gradient_checkpointing()


def _require_finite(loss: float) -> None:
    assert loss == loss and abs(loss) < float("inf"), loss
