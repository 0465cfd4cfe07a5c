"""Folders of images: those of `handtrain generate`, with a record of every image, and those of other programs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.huggingface import Place, parse_dataset
from handdata.readers import read_json, read_jsonl

RECORDS_FILE = "generation.jsonl"  # written by `handtrain generate`: one line per image
SETTINGS_FILE = "generation.json"  # written by `handtrain generate`: the settings that all images share
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the record of every generated image (file, prompt, seed), an empty list for images of other programs."""
    return read_jsonl(folder / RECORDS_FILE)


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the prompt of every generated image by file name, an empty dict for images of other programs."""
    return {record["file"]: record["prompt"] for record in read_records(folder)}


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that generated images share, an empty dict for images of other programs."""
    settings: dict[str, Any] = read_json(folder / SETTINGS_FILE) or {}
    return settings


def split_of(text: str, option: str) -> tuple[Place, str] | None:
    """Return the dataset and the split of DATASET:SPLIT, None for an existing file or folder and any other text.

    Raises `UserError` naming the option where the dataset is a malformed Hub name, a missing folder or without a split.
    """
    with suppress(OSError):  # a text that is too long for a path
        if Path(text).exists():
            return None
    place, colon, split = text.rpartition(":")
    if place == "hf":
        raise UserError(f"{option} {text} lacks the split of the dataset: write {text}:test")
    if not colon or not place or not split or "/" in split:
        return None
    return parse_dataset(place, option), split


def images_of(folder: str | Path, option: str, name: str = "") -> Path:
    """Return a folder of images; of a run's folder the images in RUN/images/`name`, which it may hold next to others.

    Raises `UserError` for a run without them, and for a dataset or a build, whose images are those of a split.
    """
    folder = Path(folder)
    if (folder / "run.json").is_file() and (folder / "log.jsonl").is_file():
        images = folder / "images" / name
        if name and images.is_dir():
            return images
        raise UserError(
            f"{option} {folder} is a run: name a folder of its images, such as {folder / 'images' / 'tuned'}"
        )
    if (folder / "recipe.toml").is_file() or ((folder / "data").is_dir() and (folder / "README.md").is_file()):
        raise UserError(f"{option} {folder} is a dataset: name its images by a split, such as {folder}:test")
    return folder


def is_black(image: Any) -> bool:
    """Return whether every value of an RGB image is at most 2 of 255."""
    return all(high <= 2 for _, high in image.getextrema())
