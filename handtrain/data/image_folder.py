"""Folders of images: those of `handtrain generate`, with a record of every image, and those of other programs."""

from pathlib import Path
from typing import Any

from handdata.huggingface import Place, parse
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
    """Return the dataset and the split of DATASET:SPLIT, None for any other text.

    Raises `UserError` naming the option where the dataset is a malformed Hub name or a missing folder.
    """
    place, colon, split = text.rpartition(":")
    if not colon or place in ("", "hf") or "/" in split:
        return None
    return parse(place, option), split


def is_black(image: Any) -> bool:
    """Return whether every value of an RGB image is at most 2 of 255."""
    return all(high <= 2 for _, high in image.getextrema())


def is_one_colour(image: Any) -> bool:
    """Return whether the values of each channel of an RGB image differ by at most 2 of 255."""
    return all(high - low <= 2 for low, high in image.getextrema())
