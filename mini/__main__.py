"""Draw the pictures, train both mini models and write them: `python -m mini --out FOLDER [--models FOLDER]`.

Everything continues where it was stopped. `--whole` and `--malformed` are pictures per gesture.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from handdata.errors import UserError
from mini import autoencoder, captioner, diffusion
from mini.loop import Course
from mini.words import write_clip_tokenizer
from mini.world import World, draw_world


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


def main(options: Options) -> int:
    """Train and return the exit code."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if not 0 < options.shorter <= 1:
        raise UserError(f"--shorter {options.shorter}: give a share of the steps, above 0 up to 1")
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
    captioner.train(made, world, options.out, _shortened(options, captioner.COURSE))
    captioner.save(made, options.models / "mini-blip")


def train_diffusion(options: Options, world: World) -> None:
    """Train the mini Stable Diffusion and write it."""
    vae = autoencoder.train(world, options.out, _shortened(options, autoencoder.COURSE))
    parts = diffusion.make(write_clip_tokenizer(world, options.out / "tokenizer"))
    courses = tuple(_shortened(options, course) for course in (diffusion.COURSE, diffusion.SECOND))
    diffusion.train(parts, vae, world, options.out, courses)
    diffusion.save(parts, vae, options.models / "mini-stable-diffusion")


def _shortened(options: Options, course: Course) -> Course:
    return replace(course, steps=max(1, round(course.steps * options.shorter)))


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(main(tyro.cli(Options)))
    except UserError as error:
        print(f"mini: {error}", file=sys.stderr)
        sys.exit(2)
