"""The stages of a build, a module each, and the table of all of them. Stages may import all but `builds` and `cli`.

A new stage is one row of STAGES, one module, its columns in `rows/schema`, and its options in `recipe` if it has any.
"""

import importlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from handdata.errors import require_known

Columns = dict[str, list[Any]]


class Stage(Protocol):
    """A stage that works on shards: the constructor loads the model, the call takes columns and returns new columns.

    Columns are a dict of equal-length lists. The call adds `reason`: why a row failed, None for a good row. `options`
    is the stage's frozen dataclass. Optional methods: `close()`, called after the last shard, and the static methods
    `at_commit(options)`, which resolves a model's branch, and `summary(build, options)`, a text that the stage's
    command prints.
    """

    version: ClassVar[int]  # raised when a change of the code changes the output
    inputs: ClassVar[tuple[str, ...]]  # columns it reads; `image` is the bytes of the stored file
    final_reasons: ClassVar[frozenset[str]]  # reasons that the same input always gives: not tried again

    @staticmethod
    def fingerprint(options: Any) -> Any: ...  # as JSON: everything else that decides the output (prompt, model)
    def __init__(self, options: Any) -> None: ...
    def __call__(self, columns: Columns) -> Columns: ...


@dataclass(frozen=True)
class Execution:
    """How stages run. The rows do not depend on it."""

    engine: str = "local"  # local or ray
    workers: int = 1  # processes per stage
    progress: bool = True  # progress bars and remarks on stderr


@dataclass
class StageReport:
    """The outcome of one stage."""

    rows: int = 0
    kept_shards: int = 0  # shards that were finished and made from the same inputs
    made_shards: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # number of rows by reason
    notes: dict[str, Any] = field(default_factory=dict)  # keys to store in run.json


@dataclass(frozen=True)
class StageSpec:
    """One row of the table of stages."""

    name: str  # command of `handdata`, value of --until, key in run.json
    implementation: str  # "module:attribute": a `Stage`, or a function (build, recipe, execution) -> StageReport
    table: str | None  # the recipe's table with the stage's options
    columns: str = ""  # folder of its shards and key of its columns in STAGE_COLUMNS; empty: it writes no shards
    help: str = ""  # one line on its command; empty: the stage has no command of its own
    card: str = ""  # its work in the dataset's card, with the recipe's {seed} and {short_side}; empty: not on the card
    more_tables: tuple[str, ...] = ()  # further tables of the recipe that its command takes as flags

    def load(self) -> Any:
        """Import and return the implementation."""
        module, _, attribute = self.implementation.partition(":")
        return getattr(importlib.import_module(module), attribute)


# In the order of a build.
STAGES = (
    StageSpec("select", "handdata.stages.select:run", "select", help="choose the images and write the manifest",
              card="chose images by a hash of (seed {seed}, image id), without looking at them",
              more_tables=("source",)),
    StageSpec("fetch", "handdata.stages.fetch:run", "fetch", "fetch", "fetch the images that the manifest names",
              "extracted these from the source's archives, checked CRC-32, baked in the orientation, scaled larger"
              " images to a short side of {short_side} px, removed EXIF"),
    StageSpec("facts", "handdata.stages.facts:ImageFacts", None, "facts"),
    StageSpec("landmarks", "handdata.stages.landmarks:HandLandmarks", "landmarks", "landmarks",
              "find 21 landmarks per hand with MediaPipe, and the hand that makes the gesture",
              "detected hands with MediaPipe on the stored image"),
    StageSpec("caption", "handdata.stages.caption:Captions", "caption", "captions",
              "describe the images with an image captioner, by default BLIP",
              "described each image with an image captioner"),
    StageSpec("rewrite", "handdata.stages.rewrite:Rewriting", "rewrite", "texts",
              "rewrite the captions with a language model so that each names its gesture",
              "rewrote each caption with a language model so that it names the gesture; rules checked every draft"),
    StageSpec("check", "handdata.stages.check:FinalChecks", "check", "checks",
              "check the final texts and remark on rows that are worth a look"),
    StageSpec("assemble", "handdata.stages.assemble:run", "assemble",
              help="make the dataset of a build whose other stages are done",
              card="took the requested number of rows per gesture and split; a spare replaces a row that failed",
              more_tables=("publish",)),
)  # fmt: skip


def stage_named(name: str) -> StageSpec:
    """Return the row of a stage. Raises `UserError` with the nearest name for an unknown one."""
    by_name = {stage.name: stage for stage in STAGES}
    require_known(name, by_name, "stage", f" The stages are {', '.join(by_name)}")
    return by_name[name]


def stages_until(name: str | None) -> tuple[StageSpec, ...]:
    """Return the stages up to and with the named one, all of them for None. Raises `UserError` as `stage_named`."""
    return STAGES if name is None else STAGES[: STAGES.index(stage_named(name)) + 1]
