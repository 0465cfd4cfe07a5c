"""Recipes: everything that decides the content of a build, one frozen dataclass per table, stored as TOML.

The defaults are the paper's values where it gives them. A trailing comment is the help of the flag of the same name.
"""

import os
import tomllib
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from handdata import gestures
from handdata.errors import UserError
from handdata.gestures import PAPER_GESTURES, Gesture
from handdata.readers import read_text
from handdata.recipe.paths import absolute_place, existing
from handdata.shipped import resource
from handdata.strict_toml import from_table, to_table

MIN_SIDE = 256  # px; MediaPipe finds small hands better in enlarged images (docs/decisions.md)


@dataclass(frozen=True)
class SourceOptions:
    """Location of annotations and images. Paths in a recipe are relative to the recipe file."""

    # zip: URLs or files; hub: hf://datasets/USER/NAME/FILE; photos: own photographs, without annotations
    kind: Literal["zip", "folder", "hub", "render", "photos"] = "zip"
    annotations: tuple[str, ...] = ()  # annotations.zip or a folder, mirrors in order; or a name from sources.toml
    images: tuple[str, ...] = ()  # archive or folder, mirrors in order; {gesture} for one archive per gesture
    whole: bool = False  # download whole archives before use: for hosts without range support


@dataclass(frozen=True)
class PhotoOptions:
    """Own photographs: a source of the kind `photos`."""

    texts: Literal["none", "caption", "final"] = "none"  # texts that came with them: ignored, captions, or final texts
    license: str = ""  # licence of the photographs for the card, such as cc-by-4.0; empty: not stated
    credit: str = ""  # who took the photographs, for the card


@dataclass(frozen=True)
class RenderOptions:
    """Content of the mini world."""

    gestures: tuple[str, ...] = ()  # names of gestures; empty: all that can be drawn (in a recipe: those of [select])
    gesture_file: tuple[str, ...] = ()  # files of further gestures with their joint angles, or shipped ones: vulcan
    train: int = 40  # pictures per gesture in the training split; 0 leaves the split out
    validation: int = 8  # pictures per gesture in HaGRID's split val
    test: int = 8  # pictures per gesture in the test split
    size: int = 256  # width and height of a picture, px
    seed: int = 0  # random seed for drawing: the same seed gives the same bytes
    malformed: bool = False  # draw malformed hands as before 'flaws': also fingers up that the gesture wants down
    flaws: tuple[str, ...] = ()  # draw wrong hands with some of these flaws; all: any of them (docs/mini_world.md)
    flaw_count: int = 0  # flaws of a hand; 0: one to three
    pairs: bool = False  # draw every hand twice: right, and with flaws (of 'flaws', else any)
    natural: float = 0.0  # share of pictures whose hand takes a natural pose instead of a gesture's
    second_hand: float = 0.2  # share of pictures with a second, idle hand
    oddities: bool = True  # include HaGRID's oddities: missing members, null and short fields, junk folders
    deflated: bool = False  # compress the members of the image archives (HaGRID has both kinds)
    zip64: bool = False  # write zip64 structures, as in archives above 4 GB


@dataclass(frozen=True)
class SelectOptions:
    """Selection of images, and their number per gesture and split."""

    gestures: tuple[str, ...] = PAPER_GESTURES  # HaGRID's names of the gestures
    train: int = 1000  # training images per gesture (paper, section 4)
    validation: int = 100  # validation images per gesture
    test: int = 1000  # test images per gesture (paper, section 4)
    seed: int = 0  # random seed for selection: the same seed gives the same images
    spare: float = 0.15  # share of images selected beyond the counts, to replace rows that fail
    max_per_subject: int = 1  # maximum number of images of a person per gesture and split; 0: no limit
    min_hand: float = 0.0  # smallest box of the gesture, as a share of the image's area
    single_hand: bool = False  # select only images without further hands


@dataclass(frozen=True)
class ImageOptions:
    """Format of the stored images."""

    short_side: int = 512  # length of the short side, px; larger images are reduced, smaller ones kept; 0: keep all
    quality: int = 95  # JPEG quality of images that are rotated or reduced


@dataclass(frozen=True)
class FetchOptions:
    """Access to the archives."""

    connections: int = 16  # number of open HTTP connections
    bridge: int = 65_536  # largest gap between two members, in bytes, that is read to save a request
    attempts: int = 8  # attempts per request before the next mirror is used
    timeout: float = 30.0  # seconds without a byte before a request fails
    backoff: float = 0.5  # seconds before the first retry; doubles with every attempt, times a random factor in 0..1
    largest: int = 64 << 20  # largest member, packed or unpacked, in bytes; larger ones are not fetched


@dataclass(frozen=True)
class LandmarkOptions:
    """Detection of hands."""

    hands: int = 2  # maximum number of hands per image
    detection: float = 0.5  # minimum confidence of the palm detector (Hand1000's code)
    presence: float = 0.5  # minimum confidence that the crop shows a hand (MediaPipe's default)
    min_side: int = MIN_SIDE  # minimum short side, px; images with a shorter side are enlarged first
    no_hand: Literal["keep", "replace"] = "keep"  # rows without a detected hand: keep them, or replace them by spares
    threads: int = 0  # number of images processed in parallel; 0: one per core


@dataclass(frozen=True)
class CaptionOptions:
    """Model that describes the images."""

    # name of a model on the Hub, a folder, mini-blip, or the server's name of the model
    model: str = "Salesforce/blip-image-captioning-large"
    revision: str = "main"  # branch, tag or commit; run.json keeps the commit that it first resolved to
    server: str = ""  # URL of an OpenAI-compatible server with a vision model; empty: in this process
    prompt: str = "Describe this photograph in one short sentence."  # request, for models that follow one
    batch: int = 16  # images per batch; halved if the GPU runs out of memory
    max_new_tokens: int = 50  # maximum number of tokens per caption
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # device of the model; auto: a GPU if torch can use one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # number format; auto: bfloat16 on a GPU, float32 on a CPU
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the server's key, if it needs one
    parallel: int = 16  # concurrent requests to the server
    timeout: float = 60.0  # seconds to wait for an answer of the server
    extra_body: str = ""  # further fields of a request to the server, as a JSON object


@dataclass(frozen=True)
class RewriteOptions:
    """Language model that rewrites the captions."""

    # GGUF file, hf:USER/NAME/FILE.gguf, llama-3-8b-instruct (paper: LLaMA 3), name of a model file of
    # `handdata assets`, or the server's name of the model
    model: str = "llama-3-8b-instruct"
    server: str = ""  # URL of an OpenAI-compatible server, such as http://localhost:8000/v1; empty: in this process
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the server's key, if it needs one
    prompt: str = ""  # prompt file; empty: the shipped prompts/rewrite.txt
    template: str = ""  # file of the chat template (Jinja) for a GGUF file without one; empty: the file's own
    retries: int = 3  # attempts after the first one, before the template is used
    temperature: float = 0.7  # sampling temperature of the retries; the first attempt is greedy
    max_tokens: int = 96  # maximum number of tokens per answer; 77 CLIP tokens take about as many
    parallel: int = 16  # sequences decoded together, or concurrent requests to the server
    threads: int = 0  # number of llama.cpp threads; 0: one per core
    device: Literal["auto", "cpu", "gpu"] = "auto"  # device of the GGUF model; auto: a GPU if llama.cpp can use one
    gpu_layers: int = -1  # layers on the GPU where llama.cpp has GPU support; -1: all
    grammar: bool = False  # force the phrase with a grammar in the last attempt
    timeout: float = 60.0  # seconds to wait for an answer of the server
    seed: int = 0  # random seed for sampling
    revision: str = "main"  # branch, tag or commit of a model on the Hub; run.json keeps the commit
    sha256: str = ""  # hash that the GGUF file must have; empty: that of the Hub's listing, which run.json keeps
    extra_body: str = ""  # further fields of a request to the server, as a JSON object
    # field of a request that limits the answer; auto: the first one that the server takes
    limit_field: Literal["auto", "max_tokens", "max_completion_tokens", "none"] = "auto"
    send_temperature: bool = True  # send a temperature to the server, unless it refuses one


@dataclass(frozen=True)
class CheckOptions:
    """Thresholds for the remarks on rows."""

    in_box: float = 0.9  # minimum share of the gesture hand's landmarks inside its box


@dataclass(frozen=True)
class AssembleOptions:
    """Layout of the dataset."""

    near_duplicate: int = 4  # near-duplicates across splits: at most this many bits of the 64-bit hashes differ
    group_bytes: int = 64_000_000  # maximum image bytes per row group; the Hub's viewer reads up to 100 MB
    file_bytes: int = 400_000_000  # maximum image bytes per Parquet file


@dataclass(frozen=True)
class PublishOptions:
    """Additional text of the dataset card."""

    title: str = ""  # title of the dataset; empty: the recipe's name
    contact: str = "the dataset's community page on the Hub"  # contact, also for removal of an image or a person
    notes: str = ""  # additional known limit of the dataset, as a sentence


@dataclass(frozen=True)
class EvaluateOptions:
    """Measurement of a dataset."""

    clip: str = "openai/clip-vit-base-patch32"  # CLIP model: name on the Hub or a folder (paper, table 1)
    device: str = "auto"  # device of the model: auto, cpu or cuda
    split: str = "all"  # split to measure: train, validation, test, or all
    # captioners to compare on these images: names on the Hub, folders, mini-blip, or URL#MODEL for one of a server
    captioners: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageResources:
    """Share of a machine or cluster that each worker of a stage gets. The rows do not depend on it."""

    workers: int = 0  # processes of the stage; 0: as many as --workers
    cpus: int = 0  # cores per worker; 0: an equal share of all cores
    gpus: float = -1.0  # GPUs per worker, on a Ray cluster also a fraction; -1: one if the stage's model uses a GPU
    memory: float = 0.0  # GB per worker that a Ray cluster reserves; 0: nothing is reserved


@dataclass(frozen=True)
class ResourceOptions:
    """Resources of the stages that work on shards."""

    facts: StageResources = field(default_factory=StageResources)
    landmarks: StageResources = field(default_factory=StageResources)
    caption: StageResources = field(default_factory=StageResources)
    rewrite: StageResources = field(default_factory=StageResources)
    check: StageResources = field(default_factory=StageResources)


@dataclass(frozen=True)
class Recipe:
    """One build: a name and one table per stage."""

    name: str  # dataset name
    source: SourceOptions = field(default_factory=SourceOptions)
    photos: PhotoOptions = field(default_factory=PhotoOptions)
    render: RenderOptions = field(default_factory=RenderOptions)
    select: SelectOptions = field(default_factory=SelectOptions)
    image: ImageOptions = field(default_factory=ImageOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    landmarks: LandmarkOptions = field(default_factory=LandmarkOptions)
    caption: CaptionOptions = field(default_factory=CaptionOptions)
    rewrite: RewriteOptions = field(default_factory=RewriteOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    assemble: AssembleOptions = field(default_factory=AssembleOptions)
    publish: PublishOptions = field(default_factory=PublishOptions)
    resources: ResourceOptions = field(default_factory=ResourceOptions)
    gesture: dict[str, Gesture] = field(default_factory=dict)  # own gestures by name, in addition to HaGRID's


def find(recipe: str) -> Path:
    """Return the file of a recipe given as a path or as the name of a shipped recipe."""
    if recipe.endswith(".toml") or "/" in recipe:
        if not Path(recipe).is_file():
            raise UserError(f"recipe file {recipe} does not exist")
        return Path(recipe)
    names = shipped()
    if recipe not in names:
        raise UserError(f"'{recipe}' is neither a recipe file (.toml) nor a shipped recipe ({', '.join(names)})")
    return resource("manifests") / f"{recipe}.toml"


def shipped() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    not_recipes = {"assets", "sources"}
    return sorted(path.stem for path in resource("manifests").glob("*.toml") if path.stem not in not_recipes)


def load(path: Path) -> Recipe:
    """Read a recipe file; relative paths in it start at the file's folder and become absolute.

    Raises `UserError` for unknown keys, naming the nearest known one, wrong types, numbers out of range and unknown
    gestures.
    """
    text = read_text(path)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError; an integer of 5,000 digits; 1,000 brackets
        raise UserError(f"{path} is not valid TOML: {error}") from None
    return _checked(from_table(Recipe, table, str(path)), path.parent)


def override(recipe: Recipe, **tables: Any) -> Recipe:
    """Return the recipe with new values: for a table an options object or a dict of some of its keys.

    Relative paths start at the working directory and become absolute. Raises `UserError` like `load`.
    """
    given = {name: to_table(table) if is_dataclass(table) else table for name, table in tables.items()}
    return _checked(from_table(Recipe, _merged(to_table(recipe), given), "the recipe"), Path.cwd())


def flag(table: str, key: str) -> str:
    """Return the flag of a recipe's key for messages, as `handdata build` and the command of the stage have it."""
    name = key.replace("_", "-")
    return f"--{table}.{name} (in `handdata {table}`: --{name})"


def dump(recipe: Recipe) -> str:
    """Return the recipe, every key spelled out, as the TOML text that `load` reads back to an equal recipe."""
    import tomli_w

    return tomli_w.dumps(to_table(recipe))


def _checked(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with absolute paths, and each gesture once.

    A model, prompt or template is a path only if it exists in the folder. Raises `UserError` for a gesture without a
    definition.
    """
    gestures.require_own(recipe.gesture)
    gestures.require(recipe.select.gestures, recipe.gesture)
    if not recipe.render.gesture_file:  # whose gestures are known when it is read
        gestures.require(recipe.render.gestures, recipe.gesture)
    source, caption, rewrite = recipe.source, recipe.caption, recipe.rewrite
    return replace(
        recipe,
        source=replace(
            source,
            annotations=tuple(absolute_place(place, folder) for place in source.annotations),
            images=tuple(absolute_place(place, folder) for place in source.images),
        ),
        select=replace(recipe.select, gestures=tuple(dict.fromkeys(recipe.select.gestures))),
        render=replace(
            recipe.render,
            gestures=tuple(dict.fromkeys(recipe.render.gestures)),
            gesture_file=tuple(existing(name, folder, os.path.isfile) for name in recipe.render.gesture_file),
        ),
        caption=replace(caption, model=existing(caption.model, folder, os.path.isdir)),
        rewrite=replace(
            rewrite,
            model=existing(rewrite.model, folder, os.path.isfile),
            prompt=existing(rewrite.prompt, folder, os.path.isfile),
            template=existing(rewrite.template, folder, os.path.isfile),
        ),
    )


def _merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a table with changed values; tables in it are merged likewise."""
    merged = dict(table)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(table.get(name), dict)
        merged[name] = _merged(table[name], value) if nested else value
    return merged
