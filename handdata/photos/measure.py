"""Measurements of a photograph: the hash of its pixels, its hands, and hashes of its look; measured once per file.

Everything is measured on the image as the stage `fetch` stores it, so that the later stages find the same hands. The
table of measurements is stored during the work: an interrupted selection resumes.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pyarrow as pa

from handdata import assets
from handdata.machine import cores
from handdata.photos.forms import Photo
from handdata.progress import bar
from handdata.recipe import Recipe
from handdata.rows.shards import read_table, write_table
from handdata.sources.jpeg import store
from handdata.vision.landmarks import ASSET, HandFinder, decode
from handdata.vision.pixels import PIXELS, UnreadableImage, open_image, upright
from handdata.vision.similarity import difference_hash, perceptual_hash

VERSION = 1  # increased when a change of the code changes a measurement

_SAVED_EVERY = 200  # photographs
_TABLE = pa.schema(
    [
        ("key", pa.string()),
        ("image_id", pa.string()),
        ("size", pa.int64()),
        ("crc32", pa.int64()),
        ("aspect", pa.float64()),
        ("landmarks", pa.list_(pa.list_(pa.list_(pa.float32())))),  # (hands, 21, 3)
        ("phash", pa.string()),
        ("dhash", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Measured:
    """One photograph as it was measured. `reason` is one of `schema.REASONS` for a file that cannot be used."""

    key: str
    image_id: str | None = None  # first 32 hex digits of the sha256 of its upright pixels
    size: int = 0  # bytes of the file
    crc32: int = 0
    aspect: float = 1.0  # width by height
    landmarks: Any = ()  # (hands, 21, 3), x and y in fractions of the image
    phash: str = ""
    dhash: str = ""
    reason: str | None = None

    @property
    def hands(self) -> np.ndarray:
        """The landmarks (hands, 21, 2) in units of the image's height: equal lengths in both directions."""
        points = np.array(self.landmarks, np.float64).reshape(-1, 21, 3)[:, :, :2]
        return points * [self.aspect, 1.0]


def measure(photos: list[Photo], recipe: Recipe, stored: Path, progress: bool) -> list[Measured]:
    """Return the measurements of photographs, in their order; those in the file `stored` are not measured again."""
    keys = [_key(photo, recipe) for photo in photos]
    known = {row["key"]: Measured(**row) for row in _read(stored)}
    todo = [(photo, key) for photo, key in zip(photos, keys, strict=True) if key not in known]
    if todo:
        with bar(
            total=len(photos), initial=len(photos) - len(todo), desc="hands", unit="photo", show=progress
        ) as shown:
            for number, measured in enumerate(_measured(todo, recipe), 1):
                known[measured.key] = measured
                shown.update()
                if number % _SAVED_EVERY == 0 or number == len(todo):
                    _write(stored, [known[key] for key in keys if key in known])
    return [known[key] for key in keys]


def _measured(todo: list[tuple[Photo, str]], recipe: Recipe) -> Iterator[Measured]:
    """Yield measurements in order. Each thread has its own finder; MediaPipe releases the interpreter."""
    options, finders = recipe.landmarks, SimpleQueue[HandFinder]()
    count = min(options.threads or cores(), len(todo))

    def one(entry: tuple[Photo, str]) -> Measured:
        finder = finders.get()
        try:
            return _measure(entry[0].path.read_bytes(), entry[1], recipe, finder)
        finally:
            finders.put(finder)

    with ExitStack() as stack:
        for _ in range(count):
            finder = HandFinder(options.hands, options.detection, options.presence, options.min_side)
            finders.put(stack.enter_context(finder))
        pool = stack.enter_context(ThreadPoolExecutor(count))
        for start in range(0, len(todo), 4 * count):  # few at a time: a stop loses little, and memory stays small
            yield from pool.map(one, todo[start : start + 4 * count])


def _measure(data: bytes, key: str, recipe: Recipe, finder: HandFinder) -> Measured:
    if len(data) > recipe.fetch.largest:
        return Measured(key, size=len(data), reason="too-large")
    try:
        image = store(data, recipe.image)
        with open_image(data) as opened:
            pixels = upright(opened)
        digest = hashlib.sha256(f"{pixels.width} x {pixels.height} ".encode() + pixels.tobytes()).hexdigest()
        with open_image(image.data) as opened:
            aspect, hashes = opened.width / opened.height, (perceptual_hash(opened), difference_hash(opened))
        shown = decode(image.data)
        assert shown is not None
    except UnreadableImage as error:
        return Measured(key, size=len(data), reason=error.reason)
    hands = finder.find(shown)
    return Measured(key, digest[:32], len(data), zlib.crc32(data), aspect, hands.landmarks.tolist(), *hashes)


def _key(photo: Photo, recipe: Recipe) -> str:
    """Return the hash of everything that decides a measurement; the file enters by its name, size and time."""
    status = photo.path.stat()
    options = {name: value for name, value in asdict(recipe.landmarks).items() if name not in ("threads", "no_hand")}
    file = [str(photo.path), status.st_size, status.st_mtime_ns]
    model = assets.assets()[ASSET].sha256
    parts = [VERSION, PIXELS, file, options, model, asdict(recipe.image), recipe.fetch.largest]
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _read(path: Path) -> list[dict[str, Any]]:
    table = read_table(path)  # sealed: a damaged one counts as absent
    same = table is not None and table.schema.equals(_TABLE, check_metadata=False)
    return table.to_pylist() if table is not None and same else []


def _write(path: Path, rows: list[Measured]) -> None:
    write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=_TABLE), path)
