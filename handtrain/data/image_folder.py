"""Folders of images: those of `handtrain generate`, with a record of every image, and those of other programs."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.huggingface import Place, parse_dataset
from handdata.readers import read_json

RECORDS_FILE = "generation.jsonl"  # written by `handtrain generate`: one line per image
SETTINGS_FILE = "generation.json"  # written by `handtrain generate`: the settings that all images share
_AGAIN = "run the same `handtrain generate` again, which writes it from the images"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the record of every generated image (file, prompt, seed), an empty list for images of other programs.

    Raises `UserError` for a damaged list: with a part of the prompts some metrics would be those of a part.
    """
    file = folder / RECORDS_FILE
    try:
        lines = [line for line in file.read_bytes().split(b"\n") if line.strip()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}): {_AGAIN}") from None
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in ("file", "prompt")):
            raise UserError(f"{file} is damaged: {_AGAIN}")
        records.append(record)
    return records


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the prompt of every generated image by file name, an empty dict for images of other programs.

    Raises `UserError` as `read_records` does.
    """
    return {record["file"]: record["prompt"] for record in read_records(folder)}


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that generated images share, an empty dict for images of other programs.

    Raises `UserError` for a damaged file, and for a missing one next to a list of generated images.
    """
    file = folder / SETTINGS_FILE
    if not file.exists() and not (folder / RECORDS_FILE).exists():
        return {}
    settings = read_json(file)
    fault = "it is missing or not JSON" if settings is None else settings_fault(settings)
    if fault:
        raise UserError(f"{file} is damaged ({fault}): {_AGAIN}")
    return dict(settings)


def settings_fault(settings: Any) -> str | None:
    """Return why a JSON value is not the settings of generated images (generation.json), None if it is."""
    if not isinstance(settings, dict):
        return "they are not a JSON object"
    for name in ("gesture", "crop", "model", "sampler", "precision", "negative_prompt"):
        if not isinstance(settings.get(name), str | None):
            return f"{name} is not a text"
    for name in ("lam", "mu", "guidance", "eta", "resolution", "steps", "images", "black"):
        if settings.get(name) is not None and not is_number(settings[name]):
            return f"{name} is not a number"
    if settings.get("crop", "center") not in ("center", "hand"):
        return "crop is neither center nor hand"
    sessions = settings.get("sessions", [])
    if not isinstance(sessions, list) or not all(_is_session(session) for session in sessions):
        return "sessions are not a list of images, seconds and device"
    return None


def _is_session(session: Any) -> bool:
    return (
        isinstance(session, dict)
        and all(is_number(session.get(name)) for name in ("images", "seconds"))
        and isinstance(session.get("device"), str)
    )


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number that can be shown, nan included."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > 1e300


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


def is_one_colour(image: Any) -> bool:
    """Return whether the values of each channel of an RGB image differ by at most 2 of 255."""
    return all(high - low <= 2 for low, high in image.getextrema())
