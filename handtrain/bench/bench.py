"""Time our presets against the plain loop of the released code: same model, machine and process, in turns."""

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from handdata.errors import UserError
from handdata.machine import choose_device
from handdata.markdown import markdown_table
from handdata.progress import bar
from handtrain.bench.contenders import Ours, Plain, make_scene
from handtrain.bench.released_loop import EMBEDDING_STEPS, UNET_STEPS
from handtrain.run.device import restart_peak, top_mib
from handtrain.run.flops import Work, known_peak, measured_peak

CHUNK = 20  # steps of a turn: two images of the plain loop's Stage II, one of its Stage III
STAGES = (2, 3)


@dataclass(frozen=True)
class Turn:
    """One contender's turn at one stage."""

    images: int
    seconds: float
    peak_mib: float


def bench(
    *,
    model: str = "auto",
    presets: Sequence[str] = ("paper", "fast"),
    steps: int = 200,
    warmup: int = 3,
    images: int = 1000,
    compile: str = "no",
    device: str = "auto",
) -> dict[str, Any]:
    """Time every contender in both stages; return plain data for JSON, the figures by contender under `contenders`.

    `model` is a key of `contenders.MODELS`, or `auto`: sd14 on a GPU, small elsewhere. `steps` are the timed steps of
    a contender in each stage, `warmup` the untimed ones before each turn, `images` those of the extrapolated gesture.
    Raises `UserError` if `steps` is not a multiple of `CHUNK`, or for a device that cannot be used.
    """
    if steps < CHUNK or steps % CHUNK:
        raise UserError(f"--steps {steps} must be a multiple of {CHUNK}, the steps of one turn")
    chosen = choose_device(device)
    name = model if model != "auto" else ("sd14" if chosen.type == "cuda" else "small")
    scene = make_scene(name, chosen)
    contenders: list[Plain | Ours] = [Plain(scene, False), Plain(scene, True)]
    contenders += [Ours(scene, preset, compile) for preset in presets]
    turns = measure(contenders, chosen, steps // CHUNK, warmup)
    known = known_peak(chosen)
    peak = known or measured_peak(chosen)
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in scene.unet.parameters()),
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "steps": steps,
        "peak_flops": peak,
        "peak_source": "data sheet, bf16" if known else "measured, a float32 matrix product",
        "images": images,
        "work": asdict(scene.work),
        "contenders": summary(turns, scene.work, peak, images),
    }


def measure(
    contenders: Sequence[Plain | Ours], device: torch.device, rounds: int, warmup: int
) -> dict[str, dict[int, list[Turn]]]:
    """Return the turns by contender and stage. In each round every contender has one turn of `CHUNK` timed steps.

    The `warmup` untimed steps before a turn let a persistent optimiser allocate its moments.
    """
    turns: dict[str, dict[int, list[Turn]]] = {c.name: {stage: [] for stage in STAGES} for c in contenders}
    order = [(stage, contender) for _ in range(rounds) for stage in STAGES for contender in contenders]
    for stage, contender in bar(order, desc="turns", unit="turn"):
        run = contender.start(stage)
        for step in range(-warmup, 0):
            run(step * UNET_STEPS if stage == 2 else step)
        restart_peak(device)
        start = time.perf_counter()
        images = sum(run(step) for step in range(CHUNK))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        turns[contender.name][stage].append(Turn(images, time.perf_counter() - start, top_mib(device)))
        del run
        for parameter in contender.scene.unet.parameters():
            parameter.grad = None
        gc.collect()
    return turns


def summary(turns: dict[str, dict[int, list[Turn]]], work: Work, peak: float, images: int) -> dict[str, dict[str, Any]]:
    """Return the figures by contender: medians over the rounds, and ratios to the first contender in each round."""
    flop = {2: work.stage2, 3: work.stage3}
    seconds = {name: _gesture_seconds(by_stage, images) for name, by_stage in turns.items()}
    baseline = next(iter(seconds.values()))
    figures: dict[str, dict[str, Any]] = {}
    for name, by_stage in turns.items():
        ratios = [plain / ours for plain, ours in zip(baseline, seconds[name], strict=True)]
        figures[name] = {
            "gesture_seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
        for stage, of_stage in by_stage.items():
            speed = statistics.median(turn.images / turn.seconds for turn in of_stage)
            figures[name][f"stage{stage}"] = {
                "timed_images": sum(turn.images for turn in of_stage),
                "images_per_s": speed,
                "mfu": speed * flop[stage] / peak,
                "peak_mib": max(turn.peak_mib for turn in of_stage),
            }
    return figures


def table(result: dict[str, Any]) -> str:
    """Return the result of `bench` as a Markdown table with notes."""
    head = ["", "Stage II images/s", "MFU", "peak MiB", "Stage III images/s", "MFU", "peak MiB"]
    rows = []
    for name, figures in result["contenders"].items():
        cells = [
            cell
            for stage in (figures["stage2"], figures["stage3"])
            for cell in (f"{stage['images_per_s']:.2f}", f"{stage['mfu']:.1%}", f"{stage['peak_mib']:,.0f}")
        ]
        low, high = figures["ratio_range"]
        hours = f"{figures['gesture_seconds'] / 3600:.2f} h"
        rows.append([name, *cells, hours, f"{figures['ratio']:.2f} ({low:.2f} to {high:.2f})"])
    peak_of = "the whole process" if result["device"] == "cpu" else "tensors on the GPU"
    notes = [
        f"UNet of {result['parameters']:,} random weights on {result['device']} ({result['threads']} CPU threads, "
        f"torch {result['torch']}); {result['steps']} timed steps per stage in turns of {CHUNK}, medians of the turns.",
        f"One gesture is {result['images']:,} images with {EMBEDDING_STEPS} steps of Stage II and {UNET_STEPS} of "
        "Stage III each, extrapolated from these steps, without encoding, samples and checkpoints.",
        f"MFU counts the arithmetic that a stage needs, relative to {result['peak_flops'] / 1e12:,.3g} TFLOP/s "
        f"({result['peak_source']}). Peak memory is that of {peak_of}.",
    ]
    return "\n".join([markdown_table([*head, "one gesture, extrapolated", "ratio"], rows), "", *notes])


def _gesture_seconds(turns: dict[int, list[Turn]], images: int) -> list[float]:
    """Return the extrapolated seconds of one gesture by round."""
    passes = {2: EMBEDDING_STEPS, 3: UNET_STEPS}
    rounds = zip(*(turns[stage] for stage in STAGES), strict=True)
    return [
        sum(images * passes[stage] * turn.seconds / turn.images for stage, turn in zip(STAGES, both, strict=True))
        for both in rounds
    ]
