"""Small archives and folders in HaGRID's layout, written in milliseconds: for tests of the code that reads them."""

import hashlib
import io
import itertools
import json
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def jpeg(number: int, size: tuple[int, int] = (96, 64), **save: Any) -> bytes:
    """Return a photograph of coloured noise, another one for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    output = io.BytesIO()
    image.save(output, "JPEG", **{"quality": 90, **save})
    return output.getvalue()


def image_id(*parts: Any) -> str:
    """Return a uuid that depends on the parts alone."""
    return str(uuid.UUID(hashlib.md5(repr(parts).encode()).hexdigest()))


def record(gesture: str, user: str, **changes: Any) -> dict[str, Any]:
    """Return a v2-1M record of one hand."""
    return {
        "bboxes": [[0.25, 0.25, 0.5, 0.5]],
        "labels": [gesture],
        "united_bbox": None,
        "united_label": None,
        "user_id": hashlib.md5(user.encode()).hexdigest(),
        "hand_landmarks": [[[0.5, 0.5]] * 21],
        "meta": {"age": [30.0], "gender": ["female"], "race": ["White"]},
        **changes,
    }


@dataclass
class World:
    """Annotations by (HaGRID's split, gesture) and image bytes by (gesture, image id)."""

    records: dict[tuple[str, str], dict[str, dict]] = field(default_factory=dict)
    images: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def add(self, split: str, gesture: str, name: str, user: str, data: bytes | None, **changes: Any) -> None:
        self.records.setdefault((split, gesture), {})[name] = record(gesture, user, **changes)
        if data is not None:
            self.images[gesture, name] = data

    def write_annotations(self, path: Path) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for (split, gesture), records in self.records.items():
                file.writestr(f"annotations/{split}/{gesture}.json", json.dumps(records))
        return path

    def write_images(
        self, path: Path, prefix: str = "HaGRIDv2_dataset_512/", method: int = zipfile.ZIP_STORED, gap: int = 0
    ) -> Path:
        """Write all images; with `gap`, an unwanted member of that many bytes is written after each."""
        with zipfile.ZipFile(path, "w", method) as file:
            for (gesture, name), data in self.images.items():
                file.writestr(f"{prefix}{gesture}/{name}.jpg", data)
                if gap:
                    file.writestr(f"{prefix}{gesture}/other-{name}.jpg", bytes(gap), zipfile.ZIP_STORED)
        return path

    def write_folder(self, root: Path) -> Path:
        for (split, gesture), records in self.records.items():
            path = root / "annotations" / split / f"{gesture}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(records))
        for (gesture, name), data in self.images.items():
            path = root / "images" / gesture / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root


def world(
    gestures: Iterable[str] = ("call", "ok"), train: int = 8, val: int = 2, test: int = 4, images: bool = True
) -> World:
    """Return a world with one image per person: so many of each gesture in each of HaGRID's splits."""
    made = World()
    for gesture in gestures:
        for split, count in (("train", train), ("val", val), ("test", test)):
            for number in range(count):
                name = image_id(gesture, split, number)
                data = jpeg(int(name[:8], 16)) if images else None
                made.add(split, gesture, name, f"{split}-{number}", data)
    return made


def distinct_jpegs(size: int) -> Iterator[bytes]:
    """Yield photographs of exactly so many bytes, with a short side of 512 px, each with other pixels, without end.

    One is encoded; the others differ from it in their quantisation table, so that thousands are made in a moment.
    """
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 86, 3), dtype=np.uint8)
    for quality in range(95, 5, -5):
        output = io.BytesIO()
        Image.fromarray(pixels).resize((688, 512), Image.Resampling.BICUBIC).save(output, "JPEG", quality=quality)
        if output.tell() <= size - 4:
            break
    base = bytearray(output.getvalue())
    table = base.find(b"\xff\xdb") + 5  # its 64 divisors
    comment = size - len(base)
    base[2:2] = b"\xff\xfe" + (comment - 2).to_bytes(2, "big") + bytes(comment - 4)
    table += comment
    for number in itertools.count():
        for place in range(4):
            base[table + place] = 1 + (number >> (7 * place)) % 128
        yield bytes(base)


def big_archive(path: Path, members: int, size: int = 110_000, hole: int = (5 << 30) + 1) -> World:
    """Write a zip64 archive of `members` photographs that lie beyond `hole` bytes of nothing (a sparse file)."""
    made = World()
    with path.open("wb") as file:
        file.truncate(hole)
        file.seek(hole)
        with zipfile.ZipFile(file, "w") as archive:
            for number, data in zip(range(members), distinct_jpegs(size), strict=False):
                name = image_id("big", number)
                made.add("train", "call", name, f"person {number}", None)
                archive.writestr(f"HaGRIDv2_dataset_512/call/{name}.jpg", data)
    return made


def recipe_text(**tables: dict[str, Any]) -> str:
    """Return a recipe's TOML."""
    lines = ['name = "test"']
    for table, values in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def write_recipe(folder: Path, source: dict[str, Any], **select: Any) -> Path:
    """Write a recipe for the gestures of `world()`'s defaults."""
    chosen = {"gestures": ["call", "ok"], "train": 4, "validation": 1, "test": 2, **select}
    path = folder / "recipe.toml"
    path.write_text(recipe_text(source=source, select=chosen))
    return path
