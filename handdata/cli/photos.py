"""The command `photos`: a recipe for a folder of photographs from a few flags, and its build."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from handdata.errors import UserError
from handdata.gestures import Gesture, gestures
from handdata.recipe import (
    CaptionOptions,
    ImageOptions,
    LandmarkOptions,
    PhotoOptions,
    PublishOptions,
    Recipe,
    RewriteOptions,
    override,
)
from handdata.stages import stages_until


@dataclass(frozen=True)
class Photos:
    """Build a dataset of your own photographs of a gesture: no annotations are needed.

    The recipe is written to OUT/recipe.toml. The same command resumes what is not finished, and takes photographs that
    were added. `handdata review OUT` shows the hands that were found.
    """

    folder: Positional[str]  # a folder of .jpg, .png, .webp or .heic files, a tar, or hf:USER/NAME
    out: Path  # the build folder
    gesture: tuple[str, ...]  # name of the gesture; several if FOLDER has a folder for each
    # words for each gesture that HaGRID does not have: "making vulcan salute hand gesture"
    phrase: tuple[str, ...] = ()
    options: Annotated[PhotoOptions, arg(name="")] = field(default_factory=PhotoOptions)
    name: str = ""  # name of the dataset; empty: that of the build folder
    seed: int = 0  # random seed of the splits
    image: ImageOptions = field(default_factory=ImageOptions)
    landmarks: LandmarkOptions = field(default_factory=LandmarkOptions)
    caption: CaptionOptions = field(default_factory=CaptionOptions)
    rewrite: RewriteOptions = field(default_factory=RewriteOptions)
    publish: PublishOptions = field(default_factory=PublishOptions)
    until: str | None = None  # the last stage to run
    engine: Literal["local", "ray"] = "local"  # engine that runs the stages; the rows do not depend on it
    workers: int = 1  # processes per stage

    def __call__(self) -> int:
        from handdata.builds import build, status

        stages_until(self.until)
        started = build.Build.start(self.recipe(), self.out)
        started.run(self.until, self.engine, self.workers)
        print(status.text(started.status()))
        return 0

    def recipe(self) -> Recipe:
        """Return the recipe of these flags. Raises `UserError` for an unknown gesture without a phrase."""
        tables = {name: getattr(self, name) for name in ("image", "landmarks", "caption", "rewrite", "publish")}
        return override(
            Recipe(self.name or self.out.resolve().name),
            source={"kind": "photos", "images": (self.folder,)},
            select={"gestures": tuple(dict.fromkeys(self.gesture)), "seed": self.seed},
            photos=self.options,
            gesture=own_gestures(self.gesture, self.phrase),
            **tables,
        )


def own_gestures(names: tuple[str, ...], phrases: tuple[str, ...]) -> dict[str, Gesture]:
    """Return the gestures that HaGRID does not have with their phrases, which are given in the same order.

    The words between "making" and "hand gesture" are also the name that texts of other gestures must not contain.
    """
    if not names:
        raise UserError("--gesture is empty: name the gesture that the photographs show")
    unknown = [name for name in dict.fromkeys(names) if name not in gestures()]
    if len(unknown) > len(phrases):
        raise UserError(
            f"--gesture {unknown[len(phrases)]} is not among HaGRID's gestures: give its words, as in --phrase 'making"
            f" {unknown[len(phrases)].replace('_', ' ')} hand gesture'"
        )
    if len(phrases) > len(unknown):
        raise UserError(
            f"--phrase {phrases[len(unknown)]!r} belongs to no gesture: HaGRID's gestures have their phrases; leave it"
            " out, or choose another name for --gesture"
        )
    return {name: Gesture(phrase, _words(phrase)) for name, phrase in zip(unknown, phrases, strict=True)}


def _words(phrase: str) -> tuple[str, ...]:
    core = re.sub(r"^making (?:an? |the )?|(?: hand)?(?: gesture| sign)?$", "", phrase.strip(), flags=re.IGNORECASE)
    return (core.lower(),) if " " in core else ()
