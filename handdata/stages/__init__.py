"""The stages of a build: the protocol that they follow, and the table of all of them.

A build has one row per selected image, in the order of its manifest. Most stages are a class that follows `Stage`: it
maps the columns of a shard (256 rows) to new columns and knows nothing of files, processes or earlier runs. The engine
(`builds/engine`) calls it on every shard that is not finished yet, reads its inputs and stores its outputs. `facts` is
the smallest example. The stages `select`, `fetch` and `assemble` work on the whole build: each is a function
`run(build, recipe, execution)`.

A new stage is one module here, one row of STAGES, its columns and reasons in `rows/schema`, and its options in
`recipe` if it has any. Stages may import everything but `builds` and `cli`.
"""

import importlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from handdata.errors import UserError, require_known
from handdata.rows.parts import Part

if TYPE_CHECKING:
    from handdata.recipe import Recipe
    from handdata.store.store import Store

Columns = dict[str, list[Any]]  # values by column name; all lists have one value per row


class Stage(Protocol):
    """A stage that works on shards: the constructor loads the model, the call computes columns from columns.

    `options` is the frozen dataclass of the stage's table in the recipe. Optional are

    - a method `close()`, called after the last shard,
    - `threads`, True for a stage whose worker uses all cores of its share,
    - static methods: `at_commit(options)` returns the options with a model's branch resolved to its commit,
      `require(options)` raises `UserError` for a model or file that is missing, before the first stage of a build runs,
      `packages(options)` returns the names of the packages whose versions may change the rows, and
      `summary(build, options)` a text that the stage's command prints,
    - for a model that can run on a GPU, whose rounding differs from a CPU's, static methods: `on_device(options, gpu)`
      returns the options with an automatic choice replaced by a kind of device (`gpu` is whether a cluster has one,
      None for this machine), `on_gpu(options)` whether the model runs on a GPU, and `gpu_found()` whether this machine
      has one that the model can use.
    """

    version: ClassVar[int]  # increased when a change of the code changes the output
    inputs: ClassVar[tuple[str, ...]]  # names of the columns it reads; `image` is the bytes of the stored file
    final_reasons: ClassVar[frozenset[str]]  # reasons that the same input always gives: such rows are not tried again

    @staticmethod
    def fingerprint(options: Any) -> Any:
        """Return as JSON what decides the output besides `version` and the inputs: options, prompt, model hash."""

    def __init__(self, options: Any) -> None:
        """Load the model, once per process."""

    def __call__(self, columns: Columns) -> Columns:
        """Return the new columns, and `reason`: why a row failed, None for a good row."""


@dataclass(frozen=True)
class Execution:
    """How stages run. The rows do not depend on it."""

    engine: str = "local"  # local or ray
    workers: int = 1  # processes of each stage for which the recipe's [resources] states no number
    progress: bool = True  # progress bars and remarks on stderr
    address: str = ""  # of a running Ray cluster; empty: that of RAY_ADDRESS, or a new one
    part: Part | None = None  # only these shards of every stage; None: all
    store: "Store | None" = None  # that the build's processes share; None: the build folder


@dataclass
class StageReport:
    """The outcome of one stage."""

    rows: int = 0  # number of rows of the build
    kept_shards: int = 0  # shards that an earlier run finished from the same inputs
    made_shards: int = 0  # shards that this run computed
    made_rows: int = 0  # of a stage that works on the whole build: rows that this run computed
    failed: Counter[str] = field(default_factory=Counter)  # number of rows by reason
    notes: dict[str, Any] = field(default_factory=dict)  # keys to store in run.json


@dataclass(frozen=True)
class StageSpec:
    """One row of the table of stages."""

    name: str  # command of `handdata`, value of --until, key in run.json
    implementation: str  # "module:attribute": a `Stage`, or a function (build, recipe, execution) -> StageReport
    table: str | None  # the recipe's table with the stage's options
    columns: str = ""  # folder of its shards and key of its columns in STAGE_COLUMNS; empty: it writes no shards
    help: str = ""  # one line on its command; empty: a stage without a command of its own
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
              " images to a short side of {short_side} px, converted other pixels to sRGB, removed EXIF"),
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


# The stages that work otherwise on photographs whose texts came with them (`photos.texts`), and on all photographs.
_GIVEN: dict[str, tuple[str | None, str]] = {
    "caption": ("handdata.stages.given:GivenCaptions", "took the caption that came with each photograph"),
    "rewrite": ("handdata.stages.given:GivenTexts", "took the text that came with each photograph; rules checked it"),
}
_PHOTOS: dict[str, tuple[str | None, str]] = {
    "select": (None, "took all photographs with a hand; the hand that is most like those of the other photographs makes"
               " the gesture, and its box is that of its landmarks with a margin"),
    "fetch": (None, "read the photographs, baked in the orientation, scaled larger images to a short side of"
              " {short_side} px, converted other pixels to sRGB, removed EXIF"),
    "check": ("handdata.stages.given:PhotoChecks", ""),
}  # fmt: skip


def stages_for(recipe: "Recipe", stages: tuple[StageSpec, ...] = STAGES) -> tuple[StageSpec, ...]:
    """Return the stages as they work on a recipe's source."""
    if recipe.source.kind != "photos":
        return stages
    texts: tuple[str, ...] = {"none": (), "caption": ("caption",), "final": ("caption", "rewrite")}[recipe.photos.texts]
    changes = {**_PHOTOS, **{name: _GIVEN[name] for name in texts}}
    return tuple(_changed(stage, *changes.get(stage.name, (None, ""))) for stage in stages)


def _changed(stage: StageSpec, implementation: str | None, card: str) -> StageSpec:
    return replace(stage, implementation=implementation or stage.implementation, card=card or stage.card)


def stage_named(name: str) -> StageSpec:
    """Return the row of a stage. Raises `UserError` with the nearest name for an unknown one."""
    by_name = {stage.name: stage for stage in STAGES}
    require_known(name, by_name, "stage", f" The stages are {', '.join(by_name)}")
    return by_name[name]


def stages_until(name: str | None) -> tuple[StageSpec, ...]:
    """Return the stages up to and with the named one, all of them for None. Raises `UserError` as `stage_named`."""
    return STAGES if name is None else STAGES[: STAGES.index(stage_named(name)) + 1]


def needs(build: Path, stage: StageSpec, supplier: StageSpec, shard: int) -> UserError:
    """Return the error of a stage that needs a shard of another one, which is missing or damaged."""
    from handdata.rows.shards import shard_path  # imports pyarrow, which `--help` does not need

    whole = f"build {build / 'recipe.toml'} --out {build} --until {supplier.name}"
    return UserError(
        f"'{stage.name}' needs the output of '{supplier.name}', and {shard_path(build, supplier.columns, shard)} is"
        f" missing or damaged: run `handdata {f'{supplier.name} {build}' if supplier.help else whole}` first"
    )
