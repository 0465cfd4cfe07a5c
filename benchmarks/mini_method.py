"""Evaluate the method on the mini world: the effect of each preset and each part on a mini model's hands, on two cores.

    python -m benchmarks.mini_method --out FOLDER [--only TEXT ...] [--jobs 2] [--dry-run]

One dataset, one base, and per gesture, variant and seed a run of the real commands: train, generate, evaluate. All are
resumable, so the same command resumes. The tables are printed as Markdown and written to FOLDER/table.md. Several runs
are made in parallel, with one torch thread each: a model this small gains little from a second thread.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mini_table import tables

GESTURES = ("call", "ok")
BASE = "mini-stable-diffusion"
RATE = 4e-4  # of the preset `mini`, at batch 16; chosen on a gesture that is not among these (docs/decisions.md)
SELECT = ["--select.gestures", "call", "ok", "palm", "--select.train", "200", "--select.test", "40"]
RENDER = ["--render.train", "226", "--render.validation", "10", "--render.test", "46", "--rewrite.retries", "1"]
DRAW = ["--seeds", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "--steps", "20", "--batch", "25"]  # 400 images
PER_IMAGE = str(RATE / 16)  # rate x batch keeps rate x steps


@dataclass(frozen=True)
class Variant:
    """A way to train: the flags of `handtrain train` and the number of seeds."""

    name: str
    flags: tuple[str, ...]
    seeds: int = 3

    @property
    def short(self) -> str:
        """Return the name in the form used in folder names."""
        return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in self.name)


_FAST = ("--preset", "mini")
VARIANTS = (
    Variant("plain fine-tuning", (*_FAST, "--lam", "1", "--embedding-steps", "0")),
    Variant("fast", _FAST),
    Variant("plus-2025", ("--preset", "plus-2025", "--unet-lr", str(RATE))),
    Variant("paper", ("--preset", "paper", "--unet-lr", PER_IMAGE)),
    Variant("reference", ("--preset", "reference", "--unet-lr", PER_IMAGE), 1),
    Variant("fast, lam 0.3", (*_FAST, "--lam", "0.3")),
    Variant("fast, lam 1", (*_FAST, "--lam", "1")),
    Variant("fast, no Stage II", (*_FAST, "--embedding-steps", "0")),
    Variant("fast, normalised feature", (*_FAST, "--feature", "normalised")),
    Variant("fast, fusion per token", (*_FAST, "--fusion", "token")),
    Variant("fast, loss on the hand", (*_FAST, "--hand-weight", "2")),
    Variant("fast, the paper's rate", ("--preset", "fast"), 1),
    Variant("paper, the paper's rate", ("--preset", "paper"), 1),
)


@dataclass(frozen=True)
class Run:
    """A training, with the generation and evaluation after it."""

    gesture: str
    variant: Variant
    seed: int
    folder: Path

    def commands(self, bench: Path) -> Iterator[list[str]]:
        base, tuned = bench / "base" / self.gesture, self.folder / "images"
        dataset, real = bench / "dataset", bench / "real" / self.gesture
        train = ["handtrain", "train", "--dataset", str(dataset), "--gesture", self.gesture, "--base", BASE]
        train += ["--out", str(self.folder), *self.variant.flags, "--seed", str(self.seed)]
        yield [*train, "--sample-every", "0", "--validate-every", "0", "--no-tensorboard", "--device", "cpu"]
        yield [*generation(bench, self.gesture, str(self.folder / "model"), tuned)]
        evaluate = ["handtrain", "evaluate", "--real", str(real), "--fake", str(tuned), "--base", str(base)]
        evaluate += ["--landmarks", str(dataset), "--variants", "standard"]
        evaluate += ["--clip", "none"]
        evaluate += ["--crop", "center"]  # all pictures are square: a crop is the whole, and a folder knows no boxes
        written = ("--json", str(self.folder / "evaluation.json"), "--details", str(self.folder / "details.jsonl"))
        yield [*evaluate, *written]
        colours = [sys.executable, "-m", "handtrain.mini.colours", str(base), str(tuned)]
        yield [*colours, "--json-file", str(self.folder / "colours.json")]


def generation(bench: Path, gesture: str, model: str, out: Path) -> list[str]:
    """Return the command that generates images for the test prompts of a gesture."""
    prompts = ["--prompts", f"{bench / 'dataset'}:test", "--gesture", gesture]
    return ["handtrain", "generate", "--model", model, "--out", str(out), *prompts, *DRAW, "--device", "cpu"]


def preparation(bench: Path) -> Iterator[list[str]]:
    """Yield the commands for the dataset, the base model's images, and 300 real pictures of each gesture."""
    build = str(bench / "build")
    yield ["handdata", "build", "mini", "--out", build, *SELECT, *RENDER]
    yield ["handdata", "publish", build, "--to", str(bench / "dataset")]
    for gesture in GESTURES:
        yield generation(bench, gesture, BASE, bench / "base" / gesture)
        counts = ["--train", "0", "--validation", "0", "--test", "300", "--size", "128", "--second-hand", "0.1"]
        out = str(bench / "real" / "zip" / gesture)
        yield ["handdata", "render", "--out", out, "--gestures", gesture, *counts, "--no-oddities", "--seed", "7"]
        yield [sys.executable, "-m", "zipfile", "-e", f"{out}/{gesture}.zip", str(bench / "real")]


def runs(bench: Path, only: list[str]) -> list[Run]:
    """Return the runs in the order in which they are made: the first seed of all variants first."""
    every = [
        Run(gesture, variant, seed, bench / "runs" / f"{gesture}-{variant.short}-{seed}")
        for seed in range(3)
        for gesture in GESTURES
        for variant in VARIANTS
        if seed < variant.seeds
    ]
    return [run for run in every if not only or any(text in run.folder.name for text in only)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="only runs whose name contains one of these texts")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="number of parallel runs (default: one per core)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    given = parser.parse_args()
    bench = given.out
    chosen = runs(bench, given.only)
    if given.dry_run:
        for command in [*preparation(bench), *(command for run in chosen for command in run.commands(bench))]:
            print(" ".join(command))
        return
    (bench / "runs").mkdir(parents=True, exist_ok=True)
    perform(list(preparation(bench)), bench / "preparation")
    with ThreadPoolExecutor(given.jobs) as pool:
        for run in pool.map(lambda run: make(run, bench), chosen):
            print(f"{run.folder.name} is done, {len(finished(chosen))} of {len(chosen)}", file=sys.stderr, flush=True)
    table = "\n".join(tables(folders(finished(runs(bench, []))), VARIANTS[0].name)) + "\n"
    (bench / "table.md").write_text(table, encoding="utf-8")
    print(table, end="")


def folders(finished_runs: list[Run]) -> dict[tuple[str, str], list[Path]]:
    """Return the folders of runs by gesture and variant, in the order of their seeds."""
    by_variant: dict[tuple[str, str], list[Path]] = {}
    for gesture in GESTURES:
        for variant in VARIANTS:
            of_variant = [run.folder for run in finished_runs if (run.gesture, run.variant) == (gesture, variant)]
            if of_variant:
                by_variant[gesture, variant.name] = of_variant
    return by_variant


def make(run: Run, bench: Path) -> Run:
    """Execute the missing commands of a run with one thread."""
    perform(list(run.commands(bench)), run.folder, {"OMP_NUM_THREADS": "1"})
    return run


def finished(chosen: list[Run]) -> list[Run]:
    """Return the runs whose last command is finished."""
    return [run for run in chosen if (run.folder / "colours.json").is_file()]


def perform(commands: list[list[str]], name: Path, environment: dict[str, str] | None = None) -> None:
    """Run the commands that are not listed in `NAME.done`; `NAME.log` holds their output."""
    done, log = name.with_name(f"{name.name}.done"), name.with_name(f"{name.name}.log")
    ended = done.read_text(encoding="utf-8").splitlines() if done.is_file() else []
    for command in commands:
        line = json.dumps(command)
        if line in ended:
            continue
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n")
            file.flush()
            subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, check=True, env={**os.environ, **(environment or {})}
            )
        with done.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
