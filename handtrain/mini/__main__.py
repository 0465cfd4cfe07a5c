"""Draw the pictures, train both mini models and write them: `python -m handtrain.mini --out FOLDER [--models FOLDER]`.

An interrupted command resumes when it is repeated. `--whole` and `--malformed` are pictures per gesture.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from handdata.errors import UserError
from handdata.files import write_jsonl
from handdata.limits.numbers import require_ranges
from handdata.readers import read_jsonl
from handtrain.mini import autoencoder, captioner, diffusion, run_command
from handtrain.mini.loop import Schedule
from handtrain.mini.pictures import World, draw_world
from handtrain.mini.tokenizers import write_clip_tokenizer

LOG = "training.jsonl"  # the training log in a model's folder


@dataclass(frozen=True)
class Options:
    """Draw the pictures of the mini world and train the mini models on them."""

    out: Path  # folder for pictures, checkpoints and logs
    models: Path = Path("models")  # folder for the finished models
    train: Literal["both", "captioner", "diffusion"] = "both"  # models to train
    whole: int = 160  # pictures of well-formed hands per gesture
    malformed: int = 300  # pictures of wrong hands per gesture
    seed: int = 1000  # random seed for the pictures; no shipped recipe uses 1000
    threads: int = 0  # number of torch threads; 0: one per core
    shorter: float = 1.0  # factor on the steps of every schedule, above 0 up to 1, for quick trials
    begin: Path | None = None  # mini-stable-diffusion folder to start from, with --courses
    courses: tuple[str, ...] = ()  # names of the training schedules of the mini Stable Diffusion to run; empty: all


def main(options: Options) -> int:
    """Train, and return the exit code."""
    require_ranges(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not 0 < options.shorter <= 1:
        raise UserError(f"--shorter {options.shorter}: give a share of the steps, above 0 up to 1")
    _check_courses(options)
    world = draw_world(options.out / "world", options.whole, options.malformed, options.seed)
    print(f"{len(world):,} pictures, {torch.get_num_threads()} threads", file=sys.stderr)
    if options.train != "diffusion":
        train_captioner(options, world)
    if options.train != "captioner":
        train_diffusion(options, world)
    return 0


def train_captioner(options: Options, world: World) -> None:
    """Train the mini BLIP and write it."""
    blip = captioner.make(world, options.out / "words")
    captioner.train(blip, world, options.out, _shortened(options, (captioner.SCHEDULE,))[0])
    captioner.save(blip, options.models / "mini-blip")
    _write_log(options, options.models / "mini-blip", (captioner.SCHEDULE,))


def train_diffusion(options: Options, world: World) -> None:
    """Train the mini Stable Diffusion and write it."""
    vae, parts = autoencoder.make(), diffusion.make(write_clip_tokenizer(world, options.out / "tokenizer"))
    if options.begin:
        diffusion.load(parts, vae, options.begin)
    first, second = _chosen(options, autoencoder.SCHEDULES), _chosen(options, diffusion.SCHEDULES)
    autoencoder.train(vae, world, options.out, _shortened(options, first))
    diffusion.train(parts, vae, world, options.out, _shortened(options, second))
    diffusion.save(parts, vae, options.models / "mini-stable-diffusion")
    _write_log(options, options.models / "mini-stable-diffusion", (*first, *second))


def _check_courses(options: Options) -> None:
    known = [schedule.name for schedule in (*autoencoder.SCHEDULES, *diffusion.SCHEDULES)]
    unknown = [name for name in options.courses if name not in known]
    if unknown:
        raise UserError(f"--courses: unknown schedule '{unknown[0]}'; choose from {', '.join(known)}")
    if bool(options.begin) != bool(options.courses):
        raise UserError("give --begin and --courses together: the model to start from and the schedules to run")


def _chosen(options: Options, schedules: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
    return tuple(schedule for schedule in schedules if not options.courses or schedule.name in options.courses)


def _write_log(options: Options, model: Path, schedules: tuple[Schedule, ...]) -> None:
    """Write the logs of a model's schedules into its folder, after those of the model that it started from."""
    names = [schedule.name for schedule in schedules]
    earlier = read_jsonl(options.begin / LOG) if options.begin else []
    lines = [line for line in earlier if line["course"] not in names]
    for name in names:
        logged = read_jsonl(options.out / f"{name}.jsonl")
        lines += [{"course": name, **{key: round(value, 7) for key, value in line.items()}} for line in logged]
    write_jsonl(model / LOG, lines)


def _shortened(options: Options, schedules: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
    return tuple(replace(schedule, steps=max(1, round(schedule.steps * options.shorter))) for schedule in schedules)


if __name__ == "__main__":
    import tyro

    run_command("mini", lambda: main(tyro.cli(Options)))
