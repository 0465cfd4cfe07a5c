"""The flags of every `handdata` command: one frozen dataclass each, whose call runs the driver."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from handdata import recipe
from handdata.errors import UserError
from handdata.recipe import (
    AssembleOptions,
    CaptionOptions,
    CheckOptions,
    EvaluateOptions,
    FetchOptions,
    ImageOptions,
    LandmarkOptions,
    PublishOptions,
    Recipe,
    RenderOptions,
    RewriteOptions,
    SelectOptions,
    SourceOptions,
)


@dataclass(frozen=True)
class Assets:
    """Fetch the model files that are not loaded through a hub library, and verify their sha256.

    Without a name: all that handdata and the tests of its stages need. Files are kept in ~/.cache/hand1000
    (XDG_CACHE_HOME and HAND1000_CACHE change that).
    """

    names: Positional[tuple[str, ...]] = ()  # as --list shows them
    list: bool = False  # only say which files there are, where they come from and which are here

    def __call__(self) -> int:
        from handdata import assets

        if self.list:
            assets.print_list()
        else:
            assets.fetch_all(self.names)
        return 0


@dataclass(frozen=True)
class Plan:
    """Say what a build will cost: images, bytes, requests, disk and minutes, before anything big is touched.

    To know it exactly, the annotations of the recipe's gestures and the archive's index are read (and kept in the
    cache, so that the build need not read them again); --offline reckons with the sizes in sources.toml instead.
    """

    recipe: Positional[str]  # a recipe file, or the name of a shipped one
    tables: Annotated[Recipe, arg(name="")]
    offline: bool = False  # ask no server and read no archive
    json: bool = False  # one JSON object on stdout

    @classmethod
    def defaults(cls, argv: list[str]) -> "Plan | None":
        return cls(argv[0], _recipe(argv[0])) if _names_something(argv) else None

    def __call__(self) -> int:
        from handdata.builds import plan

        print(plan.report(plan.plan(self.tables, self.offline), self.json))
        return 0


@dataclass(frozen=True)
class Build:
    """Run the stages of a build in order. The same command continues what is not finished."""

    recipe: Positional[str]  # a recipe file, or the name of a shipped one
    tables: Annotated[Recipe, arg(name="")]
    out: Path  # the build folder
    until: str | None = None  # the last stage to run
    engine: Literal["local", "ray"] = "local"  # what runs the stages; the rows are the same
    workers: int = 1  # processes of a stage
    dry_run: bool = False  # only say what would be done

    @classmethod
    def defaults(cls, argv: list[str]) -> "Build | None":
        return cls(argv[0], _recipe(argv[0]), MISSING) if _names_something(argv) else None

    def __call__(self) -> int:
        from handdata.builds import build, status

        steps = build.until(self.until)
        if self.dry_run:
            print(status.dry_run(self.out, self.tables, steps))
            return 0
        build.start(self.tables, self.out)
        build.run(self.out, build.open_recipe(self.out), steps, build.How(self.engine, self.workers))
        print(status.text(status.status(self.out)))
        return 0


@dataclass(frozen=True)
class Select:
    """Choose the images of a build and write its manifest. Flags are written back into the build's recipe."""

    build: Positional[Path]  # the build folder
    options: Annotated[SelectOptions, arg(name="")]
    source: SourceOptions

    @classmethod
    def defaults(cls, argv: list[str]) -> "Select | None":
        if not _names_something(argv):
            return None
        recipe = _recipe_of(argv[0])
        return cls(Path(argv[0]), recipe.select, recipe.source)

    def __call__(self) -> int:
        return _run_step(self.build, "select", select=self.options, source=self.source)


@dataclass(frozen=True)
class Fetch:
    """Fetch the images that a build's manifest names, and nothing else. Flags are written back into its recipe."""

    build: Positional[Path | None] = None  # the build folder
    manifest: Path | None = None  # start a build from this manifest alone, without a recipe
    out: Path | None = None  # the new build folder, for a manifest alone
    options: Annotated[FetchOptions, arg(name="")] = field(default_factory=FetchOptions)
    image: ImageOptions = field(default_factory=ImageOptions)

    @classmethod
    def defaults(cls, argv: list[str]) -> "Fetch | None":
        if not _names_something(argv):
            return None
        recipe = _recipe_of(argv[0])
        return cls(Path(argv[0]), None, None, recipe.fetch, recipe.image)

    def __call__(self) -> int:
        if self.build is not None and self.manifest is None and self.out is None:
            return _run_step(self.build, "fetch", fetch=self.options, image=self.image)
        if self.build is not None or self.manifest is None or self.out is None:
            raise UserError("give either a build folder, or --manifest FILE and --out BUILD")
        from handdata.builds import build

        build.start_from_manifest(self.manifest, self.out, self.options)
        return _run_step(self.out, "fetch")


@dataclass(frozen=True)
class Landmarks:
    """Find the hands in a build's images with MediaPipe: 21 landmarks each, and which hand makes the gesture."""

    build: Positional[Path]  # the build folder
    options: Annotated[LandmarkOptions, arg(name="")]

    @classmethod
    def defaults(cls, argv: list[str]) -> "Landmarks | None":
        return cls(Path(argv[0]), _recipe_of(argv[0]).landmarks) if _names_something(argv) else None

    def __call__(self) -> int:
        return _run_step(self.build, "landmarks", landmarks=self.options)


@dataclass(frozen=True)
class Caption:
    """Describe a build's images with an image captioner: BLIP, BLIP-2, PaliGemma or ViT-GPT2."""

    build: Positional[Path]  # the build folder
    options: Annotated[CaptionOptions, arg(name="")]

    @classmethod
    def defaults(cls, argv: list[str]) -> "Caption | None":
        return cls(Path(argv[0]), _recipe_of(argv[0]).caption) if _names_something(argv) else None

    def __call__(self) -> int:
        return _run_step(self.build, "caption", caption=self.options)


@dataclass(frozen=True)
class Rewrite:
    """Rewrite a build's captions so that each names its gesture, with a GGUF model or an OpenAI-compatible server."""

    build: Positional[Path]  # the build folder
    options: Annotated[RewriteOptions, arg(name="")]

    @classmethod
    def defaults(cls, argv: list[str]) -> "Rewrite | None":
        return cls(Path(argv[0]), _recipe_of(argv[0]).rewrite) if _names_something(argv) else None

    def __call__(self) -> int:
        from handdata.stages.rewrite import summary

        code = _run_step(self.build, "rewrite", rewrite=self.options)
        print(summary(self.build, self.options))
        return code


@dataclass(frozen=True)
class Check:
    """Check a build's final texts once more and remark on rows that are worth a look."""

    build: Positional[Path]  # the build folder
    options: Annotated[CheckOptions, arg(name="")]

    @classmethod
    def defaults(cls, argv: list[str]) -> "Check | None":
        return cls(Path(argv[0]), _recipe_of(argv[0]).check) if _names_something(argv) else None

    def __call__(self) -> int:
        return _run_step(self.build, "check", check=self.options)


@dataclass(frozen=True)
class Review:
    """Make BUILD/review.html, on which a person accepts, rejects and corrects rows, or take the decisions over.

    The page works from disk, without a server. Its button `Export` saves a file; --apply FILE adds the decisions in it
    to the build's decisions.jsonl, which every rebuild follows.
    """

    build: Positional[Path]  # the build folder
    apply: Path | None = None  # the file that the page exported

    def __call__(self) -> int:
        from handdata.builds import review

        print(review.apply(self.build, self.apply) if self.apply else review.write_page(self.build))
        return 0


@dataclass(frozen=True)
class Status:
    """Say for each stage of a build how many rows are done, failed and left, and why they failed."""

    build: Positional[Path]  # the build folder
    json: bool = False  # one JSON object on stdout

    def __call__(self) -> int:
        import json

        from handdata.builds import status

        found = status.status(self.build)
        print(json.dumps(found) if self.json else status.text(found))
        return 0


@dataclass(frozen=True)
class Render:
    """Draw the mini world, a HaGRID in small: archives, annotations and the truth about every picture.

    No network and no model is needed. The same options and seed give the same bytes; run again after an interruption,
    the command continues.
    """

    out: Path  # folder for <gesture>.zip, annotations.zip and truth.jsonl
    options: Annotated[RenderOptions, arg(name="")] = field(default_factory=RenderOptions)
    workers: int = 0  # processes; 0: as many as there are cores
    dry_run: bool = False  # only say what would be drawn

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
class Assemble:
    """Make the dataset out of a build whose other stages are done. Flags are written back into the build's recipe."""

    build: Positional[Path]  # the build folder
    options: Annotated[AssembleOptions, arg(name="")]
    publish: PublishOptions

    @classmethod
    def defaults(cls, argv: list[str]) -> "Assemble | None":
        if not _names_something(argv):
            return None
        recipe = _recipe_of(argv[0])
        return cls(Path(argv[0]), recipe.assemble, recipe.publish)

    def __call__(self) -> int:
        return _run_step(self.build, "assemble", assemble=self.options, publish=self.publish)


@dataclass(frozen=True)
class Drop:
    """Take an image or a person out of a build: its pictures, what was found on them, and its rows of the dataset.

    A spare takes the place where there is one. What was published already changes when you publish again.
    """

    build: Positional[Path]  # the build folder
    image_id: str | None = None  # the image to take out
    subject: str | None = None  # the person to take out: all images with this value in the column `subject`
    note: str | None = None  # why, for decisions.jsonl

    def __call__(self) -> int:
        from handdata.builds import drop

        done = drop.drop(self.build, self.image_id, self.subject, self.note)
        rows = "" if done.rows is None else f"; the dataset has {done.rows:,} rows now"
        print(f"{done.images} images are out of {self.build}{rows}")
        print(
            "If the dataset was published: publish it again. The repository's history still holds the old files;"
            " `handdata publish ... --purge-history` deletes them there."
        )
        return 0


@dataclass(frozen=True)
class Publish:
    """Publish the dataset of a build to the Hub or to a folder, and read it back.

    On the Hub it is one commit that replaces all of data/. The token is the one of `hf auth login` or HF_TOKEN. After
    an interruption the same command goes on: what was uploaded is not uploaded again.
    """

    build: Positional[Path]  # the build folder
    to: str  # hf:USER/NAME, or a folder
    private: bool = False  # make the repository private
    revision: str | None = None  # branch of the repository; made if there is none
    purge_history: bool = False  # delete all earlier commits, and for good the files that only they hold

    def __call__(self) -> int:
        from handdata.builds import publish

        done = publish.publish(self.build, self.to, self.private, self.revision, self.purge_history)
        commit = f", commit {done.revision}" if done.revision else ""
        print(f"{done.rows:,} rows in {done.files} files ({done.bytes / 1e6:,.1f} MB) are at {done.place}{commit}")
        if done.remark:
            print(done.remark)
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a published dataset, per gesture and as a whole.

    CLIP cosines of image and caption, and of caption and caption, as in the paper's table 1; the share of texts that
    hold the phrase once; how often the hand was found and lies in the box with the gesture's label.
    """

    dataset: Positional[str]  # hf:USER/NAME[@REVISION], or a folder that `publish --to` made
    options: Annotated[EvaluateOptions, arg(name="")] = field(default_factory=EvaluateOptions)
    json: bool = False  # one JSON object on stdout

    def __call__(self) -> int:
        from handdata.dataset import evaluate

        found = evaluate.evaluate(self.dataset, self.options)
        print(evaluate.as_json(found) if self.json else evaluate.text(found))
        return 0


def _names_something(argv: list[str]) -> bool:
    return bool(argv) and not argv[0].startswith("-")


def _recipe(name: str) -> Recipe:
    """Return the recipe that a command line names, its paths made absolute: flags are relative to where one is."""
    from handdata.sources import places as sources
    from handdata.stages import caption as captions
    from handdata.stages import rewrite

    path = recipe.find(name)
    loaded = recipe.load(path)
    return replace(
        loaded,
        source=sources.absolute(loaded.source, path.parent),
        caption=captions.absolute(loaded.caption, path.parent),
        rewrite=rewrite.absolute(loaded.rewrite, path.parent),
    )


def _recipe_of(build: str) -> Recipe:
    from handdata.builds.build import open_recipe

    return open_recipe(Path(build))


def _run_step(folder: Path, name: str, **tables: Any) -> int:
    """Run one stage of a build with these tables of its recipe, which are written back into it."""
    from handdata.builds import build, status

    build.start(replace(build.open_recipe(folder), **tables), folder, "BUILD")
    steps = tuple(step for step in build.STEPS if step.name == name)
    build.run(folder, build.open_recipe(folder), steps, build.How())
    print(status.text(status.status(folder)))
    return 0
