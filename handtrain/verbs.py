"""The flags of every `handtrain` command: one frozen dataclass each, whose call runs the driver."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from handtrain.places import parse
from handtrain.presets import RunOptions, TrainOptions, check, options_of


@dataclass(frozen=True)
class Train:
    """Fine-tune a Stable Diffusion on one gesture of a dataset, in the paper's three stages.

    RUN/model is the result. The same command continues a run that was stopped, and does nothing to a finished one.
    Flags stand above the preset, whatever their order.
    """

    dataset: str  # hf:USER/NAME[@REVISION], or a folder that `handdata publish` made
    gesture: str  # HaGRID's name of the gesture, a configuration of the dataset
    base: str  # hf:USER/NAME[@REVISION] or a diffusers folder: a Stable Diffusion 1 or 2
    out: Path  # the run folder
    preset: Literal["paper", "reference", "fast", "plus", "mini", "smoke"] = "paper"  # see docs/training.md
    options: Annotated[TrainOptions, tyro.conf.arg(name="")] = field(default_factory=TrainOptions)
    running: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    cache: Path | None = None  # of encoded images and texts; by default ~/.cache/hand1000/encoded
    dry_run: bool = False  # only check everything and say what the run would do and need

    @classmethod
    def defaults(cls, argv: list[str]) -> "Train":
        """Return the defaults of the preset that the command line names."""
        preset = "paper"
        for flag, value in zip(argv, [*argv[1:], ""], strict=True):
            if flag == "--preset":
                preset = value
            elif flag.startswith("--preset="):
                preset = flag.partition("=")[2]
        missing = tyro.MISSING
        return cls(missing, missing, missing, missing, preset, options_of(preset))  # type: ignore[arg-type]

    def __call__(self) -> int:
        check(self.options)
        dataset, base = parse(self.dataset, "--dataset"), parse(self.base, "--base")
        from handtrain.train import Job, train  # takes seconds: what is wrong at first sight is told before

        return train(
            Job(
                dataset=dataset,
                gesture=self.gesture,
                base=base,
                out=self.out,
                options=self.options,
                running=self.running,
                preset=self.preset,
                device=self.device,
                cache=self.cache,
                dry_run=self.dry_run,
            )
        )


@dataclass(frozen=True)
class Publish:
    """Publish a trained model, with a fresh model card, and read back what arrived."""

    model: Path  # a finished run, or its model folder
    to: str  # hf:USER/NAME[@BRANCH], or a folder
    private: bool = False  # on the Hub: make a new repository private
    metrics: Path | None = None  # a JSON file of names and values for the card

    def __call__(self) -> int:
        to = parse(self.to, "--to", new=True)
        from handtrain.publish import publish

        print(publish(self.model, to, self.private, self.metrics))
        return 0


@dataclass(frozen=True)
class ImportCheckpoint:
    """Make a model folder from a checkpoint of the paper's released code (its random fusion layer is left behind)."""

    checkpoint: Path  # the .ckpt file
    base: str  # the base it was trained from: hf:USER/NAME[@REVISION] or a diffusers folder
    gesture: str  # HaGRID's name of the gesture
    out: Path  # the model folder

    def __call__(self) -> int:
        from handdata.gestures import gestures, require

        require((self.gesture,))
        phrase, base = gestures()[self.gesture].phrase, parse(self.base, "--base")
        from handtrain.released import import_checkpoint

        print(import_checkpoint(self.checkpoint, base, self.gesture, phrase, self.out))
        return 0
