"""Measure one GPU: its ceilings, a run, generation, what fits smaller cards, and the steps of all presets.

    benchmarks/gpu.sh --out FOLDER --minutes 9

Weights are random: times and memory do not depend on them. Every part runs commands that a user would type, in
processes of their own, which are killed when their share of the minutes is over; a part that was killed or failed is a
row with the reason. The table is written to FOLDER/gpu.md, all figures to FOLDER/gpu.json.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from handdata.files import write_json, write_text
from handdata.machine import choose_device, end_with_parent
from handdata.markdown import markdown_table
from handdata.shipped import resource, version, versions
from handtrain.bench.bench import table as bench_table
from handtrain.presets import options_of
from handtrain.run.device import peak_mib
from handtrain.run.footprint import CONTEXT
from handtrain.run.phases import rows
from handtrain.training.train import train
from tests.handtrain import tiny

IMAGES, GENERATED = 200, 32  # of the run and of the generation
CARDS = (12, 24)  # GiB: `--fit` is tried with so much of the GPU's memory
SHORTEST = 20.0  # seconds: no part is begun with less


@dataclass(frozen=True)
class Part:
    """A part of the measurement: its commands, its share of the time that is left, and how its figures are read."""

    name: str
    commands: list[list[str]]
    share: float
    figures: Callable[[float], dict[str, Any]]  # from the seconds of its last command


def main() -> None:
    """Run the parts; exit with 1 if one has no figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of all files")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--small", action="store_true", help="tiny models in place of the full-size ones")
    parser.add_argument("--ceilings", action="store_true", help=argparse.SUPPRESS)  # the parts that this file computes
    parser.add_argument("--base", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--card", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.ceilings:
        write_json(given.out / "ceilings.json", ceilings(1024 if given.small else 8192))
    elif given.base:
        write_base(given.out, given.small)
    elif given.card:
        write_json(given.out / f"card-{given.card}.json", fitted(given.out, given.card))
    else:
        sys.exit(measure(given.out, time.monotonic() + 60 * given.minutes, given.small))


def measure(out: Path, end: float, small: bool) -> int:
    """Run all parts until a time of `time.monotonic`; write and print the table; return the exit code."""
    done: dict[str, dict[str, Any]] = {}
    for part in parts(out, small):
        seconds = (end - time.monotonic()) * part.share
        done[part.name] = run(part, seconds) if seconds >= SHORTEST else {"failed": "no time was left for it"}
        print(f"{part.name}: {json.dumps(done[part.name])[:300]}", file=sys.stderr, flush=True)
    device = choose_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    about = {"device": name, "version": version(), **versions("torch", "diffusers"), "small": small}
    write_json(out / "gpu.json", {**about, "parts": done})
    text = table(about, done)
    write_text(out / "gpu.md", text)
    print(text)
    return int(any("failed" in figures for figures in done.values()))


def parts(out: Path, small: bool) -> list[Part]:
    """Return the parts, the cheapest first."""
    run, images, dataset = out / "run", out / "images", out / "dataset"
    own = _module("benchmarks.gpu", out=out) + (["--small"] if small else [])
    train = _module(
        "handtrain", "train", dataset=dataset, gesture="call", base=out / "base", preset="fast", out=run,
        cache=out / "cache", checkpoint_minutes=60,
    )  # fmt: skip
    generate = _module(
        "handtrain", "generate", model=run / "model", prompts=f"{dataset}:train", limit=4 if small else GENERATED,
        out=images,
    )  # fmt: skip
    model, bench = "tiny" if small else "sd14", out / "bench.json"
    timed = _module("handtrain", "bench", model=model, steps=20, batch=32, json=bench, minutes="{minutes}")
    if choose_device("auto").type == "cuda":
        timed += ["--graphs", "--compile", "blocks", "yes"]  # those that compile are timed last
    if small:
        train += ["--limit", "4", "--unet-epochs", "2", "--sample-steps", "2"]
        generate += ["--steps", "2"]
    return [
        Part("ceilings", [[*own, "--ceilings"]], 0.2, lambda _: read(out / "ceilings.json")),
        Part("run", [[*own, "--base"], train], 0.5, lambda took: {"seconds": took, "phases": phases(run)}),
        Part("generation", [generate], 0.4, lambda took: {"seconds": took, **generated(images)}),
        *(Part(f"card of {card} GiB", [[*own, "--card", str(card)]], 0.3, partial(_card, out, card)) for card in CARDS),
        Part("bench", [timed], 1.0, lambda _: read(bench)),
    ]


def run(part: Part, seconds: float) -> dict[str, Any]:
    """Return the figures of a part, or why it has none."""
    end = time.monotonic() + seconds
    took = 0.0
    for command in part.commands:
        began = time.monotonic()
        minutes = f"{max(0.1, (end - began) / 60 - 0.2):.2f}"  # of `bench`, which has to end by itself
        command = [word.replace("{minutes}", minutes) for word in command]
        try:
            subprocess.run(
                command, timeout=end - began, check=True, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent()
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not finished after {seconds:.0f} s"}
        except subprocess.CalledProcessError as error:
            return {"failed": f"{' '.join(command[2:4])} ended with exit code {error.returncode}"}
        took = time.monotonic() - began
    return part.figures(took)


def ceilings(side: int) -> dict[str, float]:
    """Return the TFLOP/s of a bf16 matrix product of `side` x `side`, and the TB/s of a copy (read and written)."""
    device = choose_device("auto")
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    large, other = (torch.empty(side * side * 4, device=device) for _ in range(2))
    product, copy = _seconds(lambda: left @ right, device), _seconds(lambda: large.copy_(other), device)
    return {"bf16_tflops": 2 * side**3 / product / 1e12, "copy_tb_per_s": 2 * large.nbytes / copy / 1e12}


def fitted(out: Path, card: int) -> dict[str, Any]:
    """Train two steps with `--fit` in the memory of a card of a size in GiB; return the choice and both peaks."""
    device = choose_device("auto")
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (card * 2**30 - CONTEXT) / total), device)
    run = out / f"card-{card}"
    shutil.rmtree(run, ignore_errors=True)
    train(
        out / "dataset", gesture="call", base=out / "base", preset="fast", out=run, cache=out / "cache",
        fit=f"{card}GiB", limit=2 * options_of("fast").unet_batch, embedding_steps=2, unet_epochs=1, sample_steps=2,
        progress=False, tensorboard=False,
    )  # fmt: skip
    chosen = read(run / "run.json")["sessions"][-1]["fit"]
    shutil.rmtree(run)
    return {
        "changes": chosen["changes"], "predicted_gib": chosen["peak_gib"], "peak_gib": round(peak_mib(device) / 1024, 2)
    }  # fmt: skip


def write_base(out: Path, small: bool) -> None:
    """Write a Stable Diffusion 1 with random weights and a dataset of random images, unless they are there."""
    if not (out / "dataset").exists():
        tiny.write_dataset(out / "dataset", train=8 if small else IMAGES)
    if (out / "base" / "model_index.json").exists():
        return
    tiny.write_base(out / "base")
    if small:
        return
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    shipped, networks = resource("manifests/bases/stable-diffusion-1"), {}
    makers: dict[str, Any] = {"unet": UNet2DConditionModel.from_config, "vae": AutoencoderKL.from_config}
    for name, make in makers.items():
        networks[name] = make(read(shipped / name / "config.json"))
    # the tiny base's tokenizer stays: its numbers are a part of this vocabulary
    text, own = (read(folder / "text_encoder" / "config.json") for folder in (shipped, out / "base"))
    ids = {key: value for key, value in own.items() if key.endswith("token_id")}
    networks["text_encoder"] = CLIPTextModel(CLIPTextConfig(**{**text, **ids}))
    for name, network in networks.items():
        network.save_pretrained(out / "base" / name)


def phases(folder: Path) -> dict[str, Any]:
    """Return the phases of a finished run."""
    record: dict[str, Any] = read(folder / "run.json")["sessions"][-1]["phases"]
    return record


def generated(folder: Path) -> dict[str, Any]:
    """Return the images and seconds of a folder's last session, without the start of the program."""
    session = read(folder / "generation.json")["sessions"][-1]
    return {"images": session["images"], "session_seconds": session["seconds"]}


def table(about: dict[str, Any], done: dict[str, dict[str, Any]]) -> str:
    """Return all figures as Markdown."""
    known = ("device", "version", "torch", "diffusers")
    text = ["{}, hand1000 {}, torch {}, diffusers {}".format(*(about[key] for key in known)), ""]
    lines = [(name, figures["failed"]) for name, figures in done.items() if "failed" in figures]
    if "bf16_tflops" in done["ceilings"]:
        lines.append(("bf16 matrix product", f"{done['ceilings']['bf16_tflops']:,.3g} TFLOP/s"))
        lines.append(("copy", f"{done['ceilings']['copy_tb_per_s']:.3g} TB/s"))
    timed = [name for name in ("run", "generation") if "seconds" in done[name]]
    lines += [(f"{name}, from command to result", f"{done[name]['seconds']:.1f} s") for name in timed]
    if "images" in done["generation"]:
        speed = done["generation"]["images"] / done["generation"]["session_seconds"]
        lines.append(("generation, without the start", f"{speed:.2f} images/s"))
    for name, *cells in rows(done["run"]["phases"]) if "phases" in done["run"] else ():
        lines.append((f"run, {name}", ", ".join(cell for cell in cells if cell)))
    for name, figures in done.items():
        if "predicted_gib" in figures:
            options = ", ".join(f"{name} {value}" for name, value in figures["changes"].items()) or "no change"
            peaks = f"peak {figures['peak_gib']} GiB, predicted {figures['predicted_gib']}"
            lines.append((f"{name}, --fit", f"{options}: {peaks}"))
    text.append(markdown_table(["", ""], lines))
    if "contenders" in done["bench"]:
        text += ["", bench_table(done["bench"])]
    return "\n".join(text) + "\n"


def read(file: Path) -> dict[str, Any]:
    """Return a JSON file."""
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return value


def _card(out: Path, card: int, _: float) -> dict[str, Any]:
    return read(out / f"card-{card}.json")


def _module(name: str, *words: str, **flags: Any) -> list[str]:
    """Return the command of a module in this Python."""
    given = (word for flag, value in flags.items() for word in (f"--{flag.replace('_', '-')}", str(value)))
    return [sys.executable, "-m", name, *words, *given]


def _seconds(work: Callable[[], Any], device: torch.device, tries: int = 10) -> float:
    """Return the seconds of the fastest of several calls."""
    best = float("inf")
    for _ in range(tries):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    main()
