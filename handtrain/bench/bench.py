"""Time our presets against the plain loop of the released code: same model and machine, each in its own process."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from handdata.errors import Unfinished, UserError
from handdata.machine import choose_device, end_with_parent
from handdata.markdown import markdown_table
from handdata.progress import bar
from handtrain.bench.contenders import KINDS, contenders, size_of
from handtrain.bench.released_loop import EMBEDDING_STEPS, UNET_STEPS
from handtrain.bench.turns import CHUNK, STAGES, Job, Turn
from handtrain.presets import options_of
from handtrain.run.flops import Work, known_peak, measured_peak

_PASSES = {2: EMBEDDING_STEPS, 3: UNET_STEPS}


def bench(
    *,
    model: str = "auto",
    presets: Sequence[str] = ("paper", "fast"),
    batch: Sequence[int] = (),
    compile: Sequence[str] = (),
    graphs: bool = False,
    steps: int = 200,
    warmup: int = 3,
    images: int = 1000,
    minutes: float = 0.0,
    device: str = "auto",
) -> dict[str, Any]:
    """Time every contender in both stages; return plain data for JSON, the figures by contender under `contenders`.

    `model` is a key of `contenders.MODELS`, or `auto`: sd14 on a GPU, small elsewhere. Every preset competes as it is,
    with each `batch`, with `graphs` and with each kind of `compile`. `steps` are the timed ones of a contender in each
    stage (whole turns of `CHUNK`), `warmup` those before, `images` are of the extrapolated gesture. Within `minutes`
    (0: no limit) each contender has an equal share of the time that is left. Raises `UserError` for a wrong number and
    a device that cannot be used, `Unfinished` if a contender fails.
    """
    _check(steps, {"--warmup": [warmup], "--batch": batch}, presets, compile)
    chosen = _device(device, graphs)
    name = model if model != "auto" else ("sd14" if chosen.type == "cuda" else "small")
    parameters, work = size_of(name)
    threads, end = torch.get_num_threads(), time.monotonic() + 60 * minutes if minutes else None
    turns, every = {}, contenders(presets, batch, compile, graphs)
    for number, contender in enumerate(bar(every, desc="contenders", unit="contender")):
        left = None if end is None else max(0.0, end - time.monotonic()) / (len(every) - number)
        turns[contender.name] = measured(Job(contender, name, str(chosen), threads, steps // CHUNK, warmup), left)
    peak, source = _peak(chosen)
    return {
        "model": name,
        "parameters": parameters,
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu",
        "threads": threads,
        "torch": torch.__version__,
        "steps": steps,
        "minutes": minutes,
        "peak_flops": peak,
        "peak_source": source,
        "images": images,
        "work": asdict(work),
        "contenders": summary(turns, work, peak, images),
    }


def _check(steps: int, counts: dict[str, Sequence[int]], presets: Sequence[str], compile: Sequence[str]) -> None:
    if steps < CHUNK or steps % CHUNK:
        raise UserError(f"--steps {steps} must be a multiple of {CHUNK}, the steps of one turn")
    for option, values in counts.items():
        if any(value < 1 for value in values):
            raise UserError(f"{option} {min(values)} must be at least 1")
    for preset in presets:
        options_of(preset)
    for kind in compile:
        if kind not in KINDS:
            raise UserError(f"--compile {kind}: choose of {', '.join(KINDS)}")


def _device(name: str, graphs: bool) -> torch.device:
    device = choose_device(name)
    if graphs and device.type != "cuda":
        raise UserError(f"--graphs needs a CUDA GPU, this is {device}: leave it out")
    return device


def _peak(device: torch.device) -> tuple[float, str]:
    """Return the FLOP/s of a device, and where they come from."""
    known = known_peak(device)
    return (known, "data sheet, bf16") if known else (measured_peak(device), "measured, a float32 matrix product")


def measured(job: Job, seconds: float | None) -> list[Turn]:
    """Return the turns that a contender ends within a number of seconds, in a process of its own."""
    command = [sys.executable, "-m", "handtrain.bench", json.dumps(asdict(job))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent()) as process:
        timer = threading.Timer(seconds or 0, process.kill)
        if seconds is not None:
            timer.start()
        assert process.stdout is not None
        turns = [Turn(**json.loads(line)) for line in process.stdout if line.endswith("}\n")]
    late = seconds is not None and not timer.is_alive()
    timer.cancel()
    if process.returncode and not late:
        raise Unfinished(f"the contender '{job.contender.name}' ended with exit code {process.returncode}")
    return turns


def summary(turns: dict[str, list[Turn]], work: Work, peak: float, images: int) -> dict[str, dict[str, Any]]:
    """Return the figures by contender: medians over its turns, and the ratio of its gesture to the first contender's.

    A contender whose time was over before a turn of both stages has no gesture, and none has a ratio without that of
    the first.
    """
    flop = {2: work.stage2, 3: work.stage3}
    figures: dict[str, dict[str, Any]] = {}
    baseline: float | None = None
    for number, (name, of_all) in enumerate(turns.items()):
        figures[name] = {}
        costs = []  # seconds per image of every turn, by stage
        for stage in STAGES:
            firsts = [turn.seconds for turn in of_all if turn.stage == stage and turn.first]
            of_stage = [turn for turn in of_all if turn.stage == stage and not turn.first]
            if of_stage:
                costs.append([turn.seconds / turn.images * images * _PASSES[stage] for turn in of_stage])
                speed = statistics.median(turn.images / turn.seconds for turn in of_stage)
                figures[name][f"stage{stage}"] = {
                    "timed_images": sum(turn.images for turn in of_stage),
                    "first_step_s": firsts[0],
                    "images_per_s": speed,
                    "mfu": speed * flop[stage] / peak,
                    "peak_mib": max(turn.peak_mib for turn in of_stage),
                }
        if len(costs) == len(STAGES):
            seconds = sum(statistics.median(of_stage) for of_stage in costs)
            fastest, slowest = sum(min(of_stage) for of_stage in costs), sum(max(of_stage) for of_stage in costs)
            baseline = seconds if number == 0 else baseline
            figures[name]["gesture_seconds"] = seconds
            if baseline is not None:
                figures[name] |= {"ratio": baseline / seconds, "ratio_range": [baseline / slowest, baseline / fastest]}
    return figures


def table(result: dict[str, Any]) -> str:
    """Return the result of `bench` as a Markdown table with notes."""
    of_stage = ("MFU", "peak MiB", "first step")
    head = ["", *(cell for stage in ("II", "III") for cell in (f"Stage {stage} images/s", *of_stage))]
    rows = []
    for name, figures in result["contenders"].items():
        cells = [cell for stage in STAGES for cell in _cells(figures.get(f"stage{stage}"))]
        hours = f"{figures['gesture_seconds'] / 3600:.2f} h" if "gesture_seconds" in figures else "no time"
        rows.append([name, *cells, hours, _ratio(figures)])
    peak_of = "its whole process" if result["device"] == "cpu" else "its tensors on the GPU"
    notes = [
        f"UNet of {result['parameters']:,} random weights on {result['device']} ({result['threads']} CPU threads, "
        f"torch {result['torch']}), one for each contender in a process of its own; {result['steps']} timed steps per "
        f"stage in turns of {CHUNK}, medians of the turns, and the range of the ratio over them.",
        f"One gesture is {result['images']:,} images with {EMBEDDING_STEPS} steps of Stage II and {UNET_STEPS} of "
        "Stage III each, extrapolated from these steps, without first steps, encoding, samples and checkpoints.",
        f"MFU counts the arithmetic that a stage needs, relative to {result['peak_flops'] / 1e12:,.3g} TFLOP/s "
        f"({result['peak_source']}). Peak memory is that of {peak_of}.",
    ]
    return "\n".join([markdown_table([*head, "one gesture, extrapolated", "ratio"], rows), "", *notes])


def _ratio(figures: dict[str, Any]) -> str:
    if "ratio" not in figures:
        return ""
    low, high = figures["ratio_range"]
    return f"{figures['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _cells(figures: dict[str, Any] | None) -> list[str]:
    if figures is None:
        return ["", "", "", ""]
    first = f"{figures['first_step_s']:.1f} s"
    return [f"{figures['images_per_s']:.2f}", f"{figures['mfu']:.1%}", f"{figures['peak_mib']:,.0f}", first]
