"""Generated images as files: PNGs with their settings, the list of all, and the check that settings are the same."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo

from handdata.errors import UserError
from handdata.files import whole_file, write_json, write_jsonl
from handdata.readers import read_json
from handdata.vision.pixels import UnreadableImage, open_image, to_rgb
from handtrain.data.image_folder import RECORDS_FILE, SETTINGS_FILE, is_black, read_settings, settings_fault

CHUNK = "hand1000"  # name of the text chunk in a PNG that holds the record of the image

_SETTINGS_CHUNK = "hand1000-settings"


@dataclass(frozen=True)
class Picture:
    """One image to generate; its fields are the record in the PNG and in generation.jsonl."""

    file: str
    prompt: str
    seed: int  # one of --seeds
    noise_seed: int  # of torch's CPU generator
    pose: tuple[float, ...] | None = None  # (64,), see `method.conditioning`

    def record(self) -> dict[str, Any]:
        """Return the fields as they are written; without a pose the key `pose` is absent."""
        fields = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in fields.items() if name != "pose" or value is not None}


def read_record(file: Path) -> dict[str, Any] | None:
    """Return the record in a PNG; None if it is missing, damaged or from another program."""
    return _read_chunk(file, CHUNK)


def _read_chunk(file: Path, chunk: str) -> dict[str, Any] | None:
    """Return the JSON object in a text chunk of a PNG whose checksums and pixels are right."""
    try:
        with open_image(file) as image:
            image.verify()  # the checksum of every chunk
        with open_image(file) as image:
            image.load()
            record = json.loads(image.info.get(chunk, "null"))
    except (OSError, TypeError, ValueError, RecursionError, UnreadableImage):
        return None
    return record if isinstance(record, dict) else None


def missing(out: Path, pictures: list[Picture]) -> list[Picture]:
    """Return the pictures that the folder does not have yet."""
    return [picture for picture in pictures if read_record(out / picture.file) != picture.record()]


def require_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new folder; raise `UserError` if its images have other settings."""
    before = read_json(out / SETTINGS_FILE)
    if before is None or settings_fault(before):  # missing or damaged: every image holds its settings
        images = sorted(out.glob("*.png"))
        before = next((found for file in images if (found := _read_chunk(file, _SETTINGS_CHUNK))), None)
        if before is not None and all(before.get(name) == settings[name] for name in settings.keys() - {"model"}):
            before = None
    if before is None:
        write_json(out / SETTINGS_FILE, settings)
        return
    for name, value in settings.items():
        if name != "model" and before.get(name) != value:
            raise UserError(
                f"--out {out} has images with other settings ({name} was {before.get(name)}, is {value}): "
                "choose another folder"
            )


def save(file: Path, image: Any, picture: Picture, settings: dict[str, Any]) -> None:
    """Write a Pillow image as PNG, whole or absent, with its record and settings as text chunks."""
    info = PngInfo()
    info.add_itxt(CHUNK, json.dumps(picture.record()))
    info.add_itxt(_SETTINGS_CHUNK, json.dumps(settings))
    info.add_itxt("parameters", _parameters(picture, settings))
    with whole_file(file, sync=False) as partial:
        image.save(partial, format="PNG", pnginfo=info)


def finish(out: Path, session: dict[str, Any]) -> None:
    """Write generation.jsonl from the images; add the counts, and a session that generated any, to the settings."""
    records = []
    for file in sorted(out.glob("*.png")):
        record = read_record(file)
        if record is not None:
            with open_image(file) as image:
                records.append({**record, "black": is_black(to_rgb(image))})
    write_jsonl(out / RECORDS_FILE, records)
    settings = read_settings(out)
    if session["images"]:
        settings["sessions"] = [*settings.get("sessions", []), session]
    counts = {"images": len(records), "black": sum(record["black"] for record in records)}
    write_json(out / SETTINGS_FILE, {**settings, **counts})


def summary(out: Path) -> str:
    """Return how many images a folder has, and how many of them are black, as one line."""
    settings = read_settings(out)
    black = f", {settings['black']} of them black" if settings["black"] else ""
    return f"{out}: {settings['images']} images{black}"


def _parameters(picture: Picture, settings: dict[str, Any]) -> str:
    """Return the settings in the format that many programs show for a PNG."""
    size = f"{settings['resolution']}x{settings['resolution']}"
    negative = [f"Negative prompt: {settings['negative_prompt']}"] if settings["negative_prompt"] else []
    steps, guidance = settings["steps"], settings["guidance"]
    last = f"Steps: {steps}, Sampler: DDIM, CFG scale: {guidance}, Seed: {picture.noise_seed}, Size: {size}"
    return "\n".join([picture.prompt, *negative, last])
