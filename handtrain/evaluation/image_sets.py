"""Sets of images to compare, folders or splits of a dataset: looked through once, then read one by one and prepared."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from handdata.errors import UserError
from handdata.huggingface import Place, parse
from handtrain.data.crops import Box, Window, window
from handtrain.data.dataset import Photographs

GENERATION_FILE = "generation.jsonl"  # what `handtrain generate` writes beside its images: a line for each
GENERATION_SETTINGS = "generation.json"  # and the settings that all of them share
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}

CANNOT_DECODE = "cannot be decoded"
OTHER_SIZE = "has another size than most"
NO_PARTNER = "is missing in the other set"


@dataclass(frozen=True)
class Member:
    """One image of a set; its pixels stay where they are."""

    name: str  # of the file or row; images of one name in two generated sets belong together
    sha256: str
    width: int
    height: int
    black: bool
    text: str | None = None  # the prompt
    box: Box | None = None  # around the annotated hands, in fractions of the image


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order, and the names of those that were left out, by reason."""

    source: str
    members: list[Member]
    read: Callable[[Member], bytes]
    excluded: dict[str, list[str]] = field(default_factory=dict)

    def without(self, names: set[str], reason: str) -> "ImageSet":
        """Return the set without some images, which are named as left out for a reason."""
        if not names:
            return self
        left_out = [one.name for one in self.members if one.name in names]
        return replace(
            self,
            members=[one for one in self.members if one.name not in names],
            excluded={**self.excluded, reason: [*self.excluded.get(reason, []), *left_out]},
        )

    def fingerprint(self) -> str:
        """Return a hash of the images' files, in order."""
        return hashlib.sha256("\n".join(one.sha256 for one in self.members).encode()).hexdigest()


@dataclass(frozen=True)
class Preparation:
    """What is done to every image of both sides before anything is measured."""

    size: int  # pixels; 0: images stay as they are
    crop: str  # center, or hand: the square on the long side that holds the annotated hand

    def __str__(self) -> str:
        if not self.size:
            return "none: images as they are"
        return f"short side to {self.size} px (bilinear, antialiased), {self.crop} crop to {self.size} x {self.size}"

    def __call__(self, data: bytes, box: Box | None) -> np.ndarray:
        """Decode an image file and return its pixels (height, width, 3) as uint8."""
        image = _decoded(data)
        if not self.size or image.size == (self.size, self.size):
            return np.asarray(image)
        from PIL import Image

        cut = self._window(image.width, image.height, box)
        resized = image.resize((cut.width, cut.height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((cut.left, cut.top, cut.left + cut.size, cut.top + cut.size)))

    def box(self, member: Member) -> Box:
        """Return the box of a member that has one, in fractions of the prepared image."""
        assert member.box, f"{member.name} has no box"
        return self._window(member.width, member.height, member.box).box(member.box) if self.size else member.box

    def _window(self, width: int, height: int, box: Box | None) -> Window:
        return window(width, height, self.size, box if self.crop == "hand" else None)


def folder_set(folder: Path, option: str) -> ImageSet:
    """Return all images below a folder in the order of their names, with their prompts if `generate` made them.

    A file that cannot be decoded is left out by name. Raises `UserError` if no image is left.
    """
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is not a folder: name one with images")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    if not names:
        raise UserError(f"{option} {folder} holds no image ({', '.join(sorted(SUFFIXES))}): name a folder with images")
    texts = _texts(folder)

    def looked() -> Iterator[Member | str]:
        for name in _progress(names, option):
            found = _look(name, (folder / name).read_bytes())
            yield found if isinstance(found, str) else replace(found, text=texts.get(name))

    return _gathered(str(folder), looked(), lambda one: (folder / one.name).read_bytes(), option)


def dataset_set(photographs: Photographs, split: str, option: str) -> ImageSet:
    """Return the images of a dataset's split in the order of their image_id, with their texts and boxes."""
    rows = {row.image_id: index for index, row in enumerate(photographs.rows)}

    def looked() -> Iterator[Member | str]:
        for row in _progress(photographs.rows, option):
            found = _look(row.image_id, photographs.image(rows[row.image_id]))
            yield found if isinstance(found, str) else replace(found, text=row.text, box=row.box)

    read = lambda one: photographs.image(rows[one.name])  # noqa: E731
    return _gathered(f"{photographs.place}:{split}", looked(), read, option)


def one_size(images: ImageSet) -> ImageSet:
    """Leave out, by name, the images that have another size than most: a generated set has one size."""
    sizes = Counter((one.width, one.height) for one in images.members)
    common = max(sizes, key=lambda size: (sizes[size], size))
    return images.without({one.name for one in images.members if (one.width, one.height) != common}, OTHER_SIZE)


def partners(one: ImageSet, other: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return both sets with only the images that both hold, in the same order.

    Raises `UserError` if there are none.
    """
    shared = {member.name for member in one.members} & {member.name for member in other.members}
    if not shared:
        raise UserError(
            f"--fake {one.source} and --base {other.source} have no image of the same name: "
            "generate both from the same prompts and seeds"
        )
    pair = [each.without({m.name for m in each.members} - shared, NO_PARTNER) for each in (one, other)]
    return pair[0], pair[1]


def generation_settings(folder: Path) -> dict[str, Any]:
    """Return what `handtrain generate` wrote of the settings of a folder's images; empty if others made them."""
    file = folder / GENERATION_SETTINGS
    if not file.is_file():
        return {}
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return settings


def split_of(text: str, option: str) -> tuple[Place, str] | None:
    """Return dataset and split of DATASET:SPLIT, None where the text is no such thing."""
    place, colon, split = text.rpartition(":")
    if not colon or place in ("", "hf") or "/" in split:
        return None
    return parse(place, option), split


def is_black(image: Any) -> bool:
    """Return whether an RGB image is black all over, give or take 2 of 255."""
    return all(high <= 2 for _, high in image.getextrema())


def _gathered(source: str, looked: Iterator[Member | str], read: Callable[[Member], bytes], option: str) -> ImageSet:
    members, broken = [], []
    for found in looked:
        if isinstance(found, str):
            broken.append(found)
        else:
            members.append(found)
    if not members:
        raise UserError(f"{option} {source}: none of its {len(broken)} images can be decoded, the first is {broken[0]}")
    return ImageSet(source, members, read, {CANNOT_DECODE: broken} if broken else {})


def _look(name: str, data: bytes) -> Member | str:
    """Return what is to be known of an image file, or its name alone if it cannot be decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = _decoded(data)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return name
    return Member(name, hashlib.sha256(data).hexdigest(), image.width, image.height, is_black(image))


def _decoded(data: bytes) -> Any:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _texts(folder: Path) -> dict[str, str]:
    file = folder / GENERATION_FILE
    if not file.is_file():
        return {}
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {record["file"]: record["prompt"] for record in records}


def _progress(items: Sequence[Any], option: str) -> Iterator[Any]:
    from tqdm import tqdm

    return iter(tqdm(items, desc=f"look through {option}", unit="image", disable=None))
