"""A recipe: everything that decides what a build contains, one frozen dataclass per stage, kept as TOML.

The defaults are the paper's values where it has any. A trailing comment is the help of the flag with the same name.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from handdata.errors import UserError
from handdata.gestures import PAPER_GESTURES
from handdata.shipped import resource
from handdata.strict_toml import from_table, to_table

MIN_SIDE = 256  # px; MediaPipe finds small hands better enlarged (docs/decisions.md)


@dataclass(frozen=True)
class SourceOptions:
    """Where annotations and images lie. Paths are relative to the recipe file."""

    kind: Literal["zip", "folder", "hub", "render"] = "zip"  # zip: URLs or files; hub: hf://datasets/USER/NAME/FILE
    annotations: tuple[str, ...] = ()  # annotations.zip or a folder, mirrors in order; or a name from sources.toml
    images: tuple[str, ...] = ()  # archive or folder, mirrors in order; {gesture} where there is one archive for each
    whole: bool = False  # download archives wholly before use: for hosts that do not serve parts of files


@dataclass(frozen=True)
class RenderOptions:
    """What of the mini world is drawn."""

    gestures: tuple[str, ...] = ()  # names; none: all that can be drawn (in a recipe: those of [select])
    train: int = 40  # pictures per gesture; 0 leaves the split out
    validation: int = 8  # pictures per gesture, from HaGRID's val
    test: int = 8  # pictures per gesture
    size: int = 256  # width and height, px
    seed: int = 0  # of every picture: the same seed gives the same bytes
    malformed: bool = False  # draw wrong hands: finger counts, bends, lengths
    second_hand: float = 0.2  # share of pictures with a second, idle hand
    oddities: bool = True  # missing members, null and short fields, junk folders, as HaGRID has them
    deflated: bool = False  # compress the members of the image archives (HaGRID has both kinds)
    zip64: bool = False  # zip64 structures, as in archives above 4 GB


@dataclass(frozen=True)
class SelectOptions:
    """Which images, and how many of each gesture and split."""

    gestures: tuple[str, ...] = PAPER_GESTURES  # HaGRID's names
    train: int = 1000  # per gesture (paper, section 4)
    validation: int = 100  # per gesture
    test: int = 1000  # per gesture (paper, section 4)
    seed: int = 0  # decides which images; the same seed gives the same choice
    spare: float = 0.15  # share selected beyond the counts, to replace rows that fail
    max_per_subject: int = 1  # per gesture and split; 0: no limit
    min_hand: float = 0.0  # smallest box of the gesture, as a share of the image's area
    single_hand: bool = False  # only images without further hands


@dataclass(frozen=True)
class ImageOptions:
    """How images are stored."""

    short_side: int = 512  # px; larger images are made smaller, smaller ones are kept; 0: keep all
    quality: int = 95  # JPEG quality of images that are turned or made smaller


@dataclass(frozen=True)
class FetchOptions:
    """How archives are read from."""

    connections: int = 16  # kept alive, at the same time
    bridge: int = 65_536  # bytes; largest gap between two members that is read to save a request
    attempts: int = 8  # tries of one request before the next place is asked
    timeout: float = 30.0  # seconds without a byte
    backoff: float = 0.5  # seconds; doubles with every try, times a random number in 0..1
    largest: int = 64 << 20  # bytes; a member larger than this, packed or unpacked, is not fetched


@dataclass(frozen=True)
class LandmarkOptions:
    """How hands are looked for."""

    hands: int = 2  # looked for in an image
    detection: float = 0.5  # least confidence of the palm detector (Hand1000's code)
    presence: float = 0.5  # least confidence that the crop holds a hand (MediaPipe's default)
    min_side: int = MIN_SIDE  # px; an image with a shorter side is enlarged first
    no_hand: Literal["keep", "replace"] = "keep"  # a row in which no hand is found: kept, or a spare takes its place
    threads: int = 0  # images looked at together; 0: every core


@dataclass(frozen=True)
class CaptionOptions:
    """Which model describes the images."""

    model: str = "Salesforce/blip-image-captioning-large"  # name on the Hub, a folder, or mini-blip
    revision: str = "main"  # branch, tag or commit; the commit it stands for at first is kept in run.json
    batch: int = 16  # images at once; halved where the GPU's memory is too small
    max_new_tokens: int = 50  # of a caption
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU if torch can use one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on a GPU, float32 on the CPU


@dataclass(frozen=True)
class RewriteOptions:
    """Which model rewrites, and how often it is asked."""

    # GGUF file, name of `handdata assets`, or the server's own name (paper: LLaMA 3)
    model: str = "Meta-Llama-3-8B-Instruct.Q4_K_M.gguf"
    server: str = ""  # URL of an OpenAI-compatible server, such as http://localhost:8000/v1; empty: in this process
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the server's key, if it wants one
    prompt: str = ""  # prompt file; empty: the shipped prompts/rewrite.txt
    retries: int = 3  # tries after the first, before the template
    temperature: float = 0.7  # of the retries; the first try is greedy
    max_tokens: int = 96  # of one answer; 77 CLIP tokens are about as many
    parallel: int = 16  # sequences decoded together, or requests at once
    threads: int = 0  # of llama.cpp; 0: every core
    gpu_layers: int = -1  # layers on the GPU where llama.cpp was built for one; -1: all
    grammar: bool = False  # let a grammar force the phrase in the last try
    timeout: float = 60.0  # s, that a server may take for one answer
    seed: int = 0  # of the draws


@dataclass(frozen=True)
class CheckOptions:
    """What is remarked on."""

    in_box: float = 0.9  # least share of the gesture hand's landmarks inside its box


@dataclass(frozen=True)
class AssembleOptions:
    """How rows become a dataset."""

    near_duplicate: int = 4  # bits of the 64-bit perceptual hash; images of different splits differ in more
    group_bytes: int = 64_000_000  # of images in a row group at most; the Hub's viewer reads up to 100 MB
    file_bytes: int = 400_000_000  # of images in a Parquet file at most


@dataclass(frozen=True)
class PublishOptions:
    """What the card says beyond what the build knows."""

    title: str = ""  # of the dataset; empty: the recipe's name
    contact: str = "the dataset's community page on the Hub"  # whom to ask, for the removal of an image or a person too
    notes: str = ""  # one more known limit, in a sentence


@dataclass(frozen=True)
class EvaluateOptions:
    """With what a dataset is measured."""

    clip: str = "openai/clip-vit-base-patch32"  # CLIP model: name on the Hub or a folder (paper, table 1)
    device: str = "auto"  # auto, cpu or cuda
    split: str = "all"  # train, validation, test, or all


@dataclass(frozen=True)
class Recipe:
    """One build: a name and one table per stage."""

    name: str  # of the dataset
    source: SourceOptions = field(default_factory=SourceOptions)
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


def find(recipe: str) -> Path:
    """Return the file that RECIPE on a command line means: a path, or the name of a shipped recipe."""
    if recipe.endswith(".toml") or "/" in recipe:
        if not Path(recipe).is_file():
            raise UserError(f"there is no recipe file {recipe}")
        return Path(recipe)
    folder = resource("manifests")
    names = shipped()
    if recipe not in names:
        raise UserError(f"'{recipe}' is neither a recipe file (.toml) nor a shipped recipe ({', '.join(names)})")
    return folder / f"{recipe}.toml"


def shipped() -> list[str]:
    """Return the names of the recipes that come with the package."""
    not_recipes = {"assets", "sources"}
    return sorted(path.stem for path in resource("manifests").glob("*.toml") if path.stem not in not_recipes)


def load(path: Path) -> Recipe:
    """Read a recipe file. Unknown keys and wrong types raise `UserError` naming the nearest known key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    return from_table(Recipe, table, str(path))


def dump(recipe: Recipe) -> str:
    """Return the recipe, every key spelled out, as the TOML text that `load` reads back to an equal recipe."""
    import tomli_w

    return tomli_w.dumps(to_table(recipe))
