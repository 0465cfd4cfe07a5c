"""The flags of every `handdata` command: one frozen dataclass each, whose call runs the work and prints the result.

The commands of stages are made from the table of stages (`handdata/stages/__init__.py`).
"""

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from handdata.builds.folder import BuildFolder
from handdata.cli.photos import Photos as Photos
from handdata.cli.this_machine import Assets as Assets
from handdata.cli.this_machine import Doctor as Doctor
from handdata.errors import UserError
from handdata.recipe import EvaluateOptions, FetchOptions, ImageOptions, Recipe, RenderOptions, find, load, override
from handdata.stages import STAGES, StageSpec, stage_named, stages_until
from handdata.web.urls import public_url


@dataclass(frozen=True)
class Plan:
    """Print the cost of a build (images, bytes, requests, disk and minutes) before large files are read.

    For exact figures, the annotations of the recipe's gestures and the archive's index are read and cached for the
    build. With --offline, the sizes in sources.toml are used instead.
    """

    recipe: Positional[str]  # a recipe file, or the name of a shipped one
    tables: Annotated[Recipe, arg(name="")]
    offline: bool = False  # use no network and read no archive
    json: bool = False  # print one JSON object on stdout

    @classmethod
    def defaults(cls, argv: list[str]) -> "Plan | None":
        return cls(argv[0], _shown(load(find(argv[0])), argv)) if _has_positional(argv) else None

    def __call__(self) -> int:
        from handdata.builds import plan

        print(plan.report(plan.plan(override(self.tables), self.offline), self.json))
        return 0


@dataclass(frozen=True)
class Build:
    """Run the stages of a build in order. The same command resumes what is not finished."""

    recipe: Positional[str]  # a recipe file, or the name of a shipped one
    tables: Annotated[Recipe, arg(name="")]
    out: Path  # the build folder, or a URL such as s3://bucket/build that all machines reach
    until: str | None = None  # the last stage to run
    engine: Literal["local", "ray"] = "local"  # engine that runs the stages; the rows do not depend on it
    workers: int = 1  # processes per stage
    address: str = ""  # a running Ray cluster to join, such as auto; empty: that of RAY_ADDRESS, or a new one
    part: str | None = None  # i/N: make only the i-th of N parts of every stage's shards, in any process anywhere
    join: bool = False  # check that all parts are finished, and assemble the dataset
    verify: bool = False  # first read again every file that the build relies on, and list those that were damaged
    dry_run: bool = False  # only print what would be done

    @classmethod
    def defaults(cls, argv: list[str]) -> "Build | None":
        return cls(argv[0], _shown(load(find(argv[0])), argv), MISSING) if _has_positional(argv) else None

    def __call__(self) -> int:
        from handdata.builds import build, status

        stages = stages_until(self.until)
        if self.address and self.engine != "ray":
            raise UserError("--address is of a Ray cluster: give it with --engine ray")
        if self.join and (self.part or self.until):
            raise UserError("--join checks all parts and all stages: leave out --part and --until")
        if self.dry_run:
            print(status.dry_run(self.out, override(self.tables), stages))
            return 0
        if self.join:
            started = build.Build.open(self.out)
            started.require_recipe(self.tables)
            started.join()
        else:
            started = build.Build.start(self.tables, self.out, self.part)
            started.run(self.until, self.engine, self.workers, verify=self.verify, address=self.address)
        print(status.text(started.status()))
        return 0


def _stage_command(stage: StageSpec) -> type:
    """Return the command of a stage: the build folder, and the keys of the stage's tables in the recipe as flags."""
    kinds = {table.name: table.type for table in dataclasses.fields(Recipe)}
    tables: dict[str, Any] = {str(stage.table): Annotated[kinds[str(stage.table)], arg(name="")]}
    tables |= {name: kinds[name] for name in stage.more_tables}

    def defaults(cls: Any, argv: list[str]) -> Any:
        if not _has_positional(argv):
            return None
        recipe = _shown(BuildFolder.open(argv[0]).recipe, argv)
        return cls(Path(argv[0]), *(getattr(recipe, name) for name in tables))

    def call(command: Any) -> int:
        return _run_stage(stage, command.build, **{name: getattr(command, name) for name in tables})

    folder = Annotated[Path, arg(help="the build folder")]
    about = f"{stage.help[0].upper()}{stage.help[1:]}. Flags are written back into the build's recipe."
    members = {"__doc__": about, "__call__": call, "defaults": classmethod(defaults)}
    return dataclasses.make_dataclass(
        stage.name.title(), [("build", Positional[folder]), *tables.items()], namespace=members, frozen=True
    )


def __getattr__(name: str) -> type:
    """Return the command of a stage by the name of its class."""
    for stage in STAGES:
        if stage.help and stage.name.title() == name:
            return _stage_command(stage)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


@dataclass(frozen=True)
class Fetch:
    """Fetch the images that a build's manifest names. Flags are written back into the build's recipe."""

    build: Positional[Path | None] = None  # the build folder
    manifest: Path | None = None  # start a build from this manifest alone, without a recipe
    out: Path | None = None  # the new build folder, for a manifest alone
    options: Annotated[FetchOptions, arg(name="")] = field(default_factory=FetchOptions)
    image: ImageOptions = field(default_factory=ImageOptions)

    @classmethod
    def defaults(cls, argv: list[str]) -> "Fetch | None":
        if not _has_positional(argv):
            if _value_of("--manifest", argv) and any(word.startswith("--image.") for word in argv):
                raise UserError(
                    "--image.* needs a build folder: with --manifest, images have the format of the manifest"
                )
            out = _value_of("--out", argv)
            recipe = BuildFolder.of_manifest(Path(out)) if out else None
            return cls(options=recipe.fetch) if recipe else None
        recipe = BuildFolder.open(argv[0]).recipe
        return cls(Path(argv[0]), None, None, recipe.fetch, recipe.image)

    def __call__(self) -> int:
        stage = stage_named("fetch")
        if self.build is not None and self.manifest is None and self.out is None:
            return _run_stage(stage, self.build, fetch=self.options, image=self.image)
        if self.build is not None or self.manifest is None or self.out is None:
            raise UserError("give either a build folder, or --manifest FILE and --out BUILD")
        BuildFolder.from_manifest(self.manifest, self.out, fetch=self.options)
        return _run_stage(stage, self.out)


@dataclass(frozen=True)
class Review:
    """Write BUILD/review.html, where a person accepts, rejects and corrects rows, or apply these decisions.

    The page works from disk, without a server. Its button `Export` saves a file; --apply FILE adds the decisions in it
    to the build's decisions.jsonl, which every later run follows.
    """

    build: Positional[Path]  # the build folder
    apply: Path | None = None  # file of decisions that the page exported

    def __call__(self) -> int:
        from handdata.builds import build

        opened = build.Build.open(self.build)
        if self.apply:
            applied = opened.apply_review(self.apply)
            print(f"{applied.new:,} decisions added to {opened.path / 'decisions.jsonl'}, {applied.known:,} were known")
        else:
            page = opened.review()
            print(f"open {page} in a browser; then run `handdata review {opened.store.place} --apply FILE`")
        return 0


@dataclass(frozen=True)
class Status:
    """Print for each stage of a build how many rows are done, failed and left, and why they failed."""

    build: Positional[Path]  # the build folder
    json: bool = False  # print one JSON object on stdout

    def __call__(self) -> int:
        import json

        from handdata.builds import status

        state = status.status(BuildFolder.open(self.build))
        print(json.dumps(state) if self.json else status.text(state))
        return 0


@dataclass(frozen=True)
class Render:
    """Draw the mini world, a small HaGRID: archives, annotations and the ground truth of every picture.

    Needs neither network nor models. The same options and seed give the same bytes. The same command resumes after an
    interruption.
    """

    out: Path  # folder for <gesture>.zip, annotations.zip and truth.jsonl
    options: Annotated[RenderOptions, arg(name="")] = field(default_factory=RenderOptions)
    workers: int = 0  # number of processes; 0: one per core
    dry_run: bool = False  # only print what would be drawn

    def __call__(self) -> int:
        from handdata.world import render

        if self.dry_run:
            render.check(self.options)
            print(render.summary(self.options))
        else:
            drawn = render.draw(self.options, self.out, self.workers)
            print(f"{sum(drawn.values()):,} pictures of {len(drawn)} gestures are in {self.out}")
        return 0


@dataclass(frozen=True)
class Drop:
    """Remove an image or a person from a build: the pictures, all columns computed from them, and the dataset's rows.

    Spares replace the removed rows while any are left. A published dataset changes when it is published again.
    """

    build: Positional[Path]  # the build folder
    image_id: str | None = None  # image to remove
    subject: str | None = None  # person to remove: all images with this value in the column `subject`
    note: str | None = None  # the reason, for decisions.jsonl

    def __call__(self) -> int:
        from handdata.builds.drop import drop

        opened = BuildFolder.open(self.build)
        dropped = drop(opened, self.image_id, self.subject, self.note)
        rows = "" if dropped.rows is None else f"; the dataset has {dropped.rows:,} rows now"
        rows = rows if dropped.rows != 0 else "; no row is left to publish, and the folder dataset/ is deleted"
        print(f"{dropped.images} images are removed from {opened.store.place}{rows}")
        for place in dropped.elsewhere:
            print(f"{place} may still hold these images or their annotations: delete them there where needed")
        if dropped.rows == 0:
            print("If the dataset was published: delete its repository by hand, since an empty one is not published.")
            return 0
        print(
            "If the dataset was published: publish it again. The repository's history still holds the old files;"
            " `handdata publish ... --purge-history` deletes them there."
        )
        return 0


@dataclass(frozen=True)
class Publish:
    """Publish the dataset of a build, or of pairs that `render` drew, to the Hub or to a folder, and read it back.

    On the Hub, one commit replaces all of data/. The token is that of `hf auth login` or HF_TOKEN. The
    same command resumes after an interruption: uploaded files are not uploaded again.
    """

    build: Positional[Path]  # the build folder, a folder of `render --pairs`, or a folder with several of these
    to: str  # hf:USER/NAME, or a folder (a new one that looks like USER/NAME: ./USER/NAME)
    private: bool = False  # make the repository private
    revision: str | None = None  # branch of the repository; created if it does not exist
    purge_history: bool = False  # permanently delete all earlier commits and the files that only they hold

    def __call__(self) -> int:
        from handdata.builds.publish import publish
        from handdata.dataset import pairs

        source = self.build if pairs.drawn_folders(self.build) else BuildFolder.open(self.build)
        done = publish(source, self.to, self.private, self.revision, self.purge_history)
        commit = f", commit {done.revision}" if done.revision else ""
        print(f"{done.rows:,} rows in {done.files} files ({done.bytes / 1e6:,.1f} MB) are at {done.place}{commit}")
        if done.remark:
            print(done.remark)
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a published dataset, per gesture and in total.

    CLIP cosines of image and caption, and of caption and caption, as in the paper's table 1; the share of texts that
    contain the phrase once; how often the hand was detected inside the box with the gesture's label. With --captioners,
    the same images are described by each of them: a row per captioner, after those of the dataset's captions and texts.
    """

    dataset: Positional[str]  # hf:USER/NAME[@REVISION], a folder that `publish --to` made, or a build
    options: Annotated[EvaluateOptions, arg(name="")] = field(default_factory=EvaluateOptions)
    json: bool = False  # print one JSON object on stdout

    def __call__(self) -> int:
        from handdata.dataset import captioners, evaluate

        if self.options.captioners:
            compared = captioners.compare(self.dataset, self.options)
            print(evaluate.as_json(compared) if self.json else captioners.text(compared))
            return 0
        scores = evaluate.evaluate(self.dataset, self.options)
        print(evaluate.as_json(scores) if self.json else evaluate.text(scores))
        return 0


def _has_positional(argv: list[str]) -> bool:
    return bool(argv) and not argv[0].startswith("-")


def _value_of(flag: str, argv: list[str]) -> str | None:
    """Return the value of a flag, given as `--flag VALUE` or `--flag=VALUE`."""
    for word, following in pairwise([*argv, ""]):
        if word == flag or word.startswith(f"{flag}="):
            return (following if word == flag else word.removeprefix(f"{flag}=")) or None
    return None


def _shown(recipe: Recipe, argv: list[str]) -> Recipe:
    """Return a recipe as the defaults of flags; for --help, which prints them, without secrets of URLs."""
    if not {"-h", "--help"} & set(argv):
        return recipe
    source, caption, rewrite = recipe.source, recipe.caption, recipe.rewrite
    annotations, images = (tuple(map(public_url, places)) for places in (source.annotations, source.images))
    source = dataclasses.replace(source, annotations=annotations, images=images)
    caption = dataclasses.replace(caption, server=public_url(caption.server))
    rewrite = dataclasses.replace(rewrite, server=public_url(rewrite.server))
    return dataclasses.replace(recipe, source=source, caption=caption, rewrite=rewrite)


def _run_stage(stage: StageSpec, folder: Path, **tables: Any) -> int:
    """Run one stage of a build with these tables of its recipe, which are written back, and print the state."""
    from handdata.builds import build, status

    started = build.Build.start(BuildFolder.open(folder).recipe, folder, **tables)
    started.run(only=stage.name)
    print(status.text(started.status()))
    summary = getattr(stage.load(), "summary", None)
    if summary:
        print(summary(started.path, getattr(started.recipe, str(stage.table))))
    return 0
