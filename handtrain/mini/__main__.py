"""Draw the pictures, train both mini models and write them: `python -m handtrain.mini --out FOLDER [--models FOLDER]`.

Everything continues where it was stopped. `--whole` and `--malformed` are pictures per gesture.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from handdata.errors import UserError
from handtrain.mini import autoencoder, captioner, diffusion
from handtrain.mini.loop import Course
from handtrain.mini.pictures import World, draw_world
from handtrain.mini.tokenizers import write_clip_tokenizer

LOG = "training.jsonl"  # beside a model: how it was trained


@dataclass(frozen=True)
class Options:
    """What is drawn and trained, and where it goes."""

    out: Path  # pictures, checkpoints and logs
    models: Path = Path("models")  # the finished models
    train: Literal["both", "captioner", "diffusion"] = "both"  # which of the two
    whole: int = 160  # well-formed hands, pictures per gesture
    malformed: int = 300  # wrong hands, pictures per gesture
    seed: int = 1000  # of the pictures; no recipe that ships uses it
    threads: int = 0  # of torch; 0: one per core
    shorter: float = 1.0  # times the steps of every course, to try the scripts out
    begin: Path | None = None  # a mini-stable-diffusion to go on from, with --courses
    courses: tuple[str, ...] = ()  # of the mini Stable Diffusion, by name; none: all


def main(options: Options) -> int:
    """Train and return the exit code."""
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
    made = captioner.make(world, options.out / "words")
    captioner.train(made, world, options.out, _shortened(options, (captioner.COURSE,))[0])
    captioner.save(made, options.models / "mini-blip")
    _write_log(options, options.models / "mini-blip", (captioner.COURSE,))


def train_diffusion(options: Options, world: World) -> None:
    """Train the mini Stable Diffusion and write it."""
    vae, parts = autoencoder.make(), diffusion.make(write_clip_tokenizer(world, options.out / "tokenizer"))
    if options.begin:
        diffusion.load(parts, vae, options.begin)
    first, second = _chosen(options, autoencoder.COURSES), _chosen(options, diffusion.COURSES)
    autoencoder.train(vae, world, options.out, _shortened(options, first))
    diffusion.train(parts, vae, world, options.out, _shortened(options, second))
    diffusion.save(parts, vae, options.models / "mini-stable-diffusion")
    _write_log(options, options.models / "mini-stable-diffusion", (*first, *second))


def _check_courses(options: Options) -> None:
    known = [course.name for course in (*autoencoder.COURSES, *diffusion.COURSES)]
    unknown = [name for name in options.courses if name not in known]
    if unknown:
        raise UserError(f"--courses {unknown[0]} is none: they are {', '.join(known)}")
    if bool(options.begin) != bool(options.courses):
        raise UserError("--begin and --courses go together: what to go on from, and what is still to be learnt")


def _chosen(options: Options, courses: tuple[Course, ...]) -> tuple[Course, ...]:
    return tuple(course for course in courses if not options.courses or course.name in options.courses)


def _write_log(options: Options, model: Path, courses: tuple[Course, ...]) -> None:
    """Put the logs of a model's courses beside it, those of what it began from first."""
    names = [course.name for course in courses]
    before = options.begin / LOG if options.begin else None
    lines = before.read_text(encoding="utf-8").splitlines() if before and before.is_file() else []
    lines = [line for line in lines if json.loads(line)["course"] not in names]
    for name in names:
        for line in (options.out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            rounded = {key: round(value, 7) for key, value in json.loads(line).items()}
            lines.append(json.dumps({"course": name, **rounded}))
    (model / LOG).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _shortened(options: Options, courses: tuple[Course, ...]) -> tuple[Course, ...]:
    return tuple(replace(course, steps=max(1, round(course.steps * options.shorter))) for course in courses)


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(main(tyro.cli(Options)))
    except UserError as error:
        print(f"mini: {error}", file=sys.stderr)
        sys.exit(2)
