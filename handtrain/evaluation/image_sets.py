"""Sets of images to compare, from folders or splits of a dataset: checked once, then read and prepared one by one."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from handdata.errors import UserError
from handdata.progress import bar
from handdata.vision.pixels import UnreadableImage, open_image, upright
from handtrain.data.crops import Box, Window, window
from handtrain.data.dataset import Photographs
from handtrain.data.image_folder import SUFFIXES, is_black, is_one_colour, read_prompts

CANNOT_DECODE = "cannot be decoded"
NO_PARTNER = "is missing in the other set"


@dataclass(frozen=True)
class Member:
    """One image of a set, without its pixels."""

    name: str  # of the file or row; images of one name in two generated sets are partners
    sha256: str
    width: int
    height: int
    black: bool
    one_colour: bool = False  # and not black
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
        """Return the set without the named images, which are listed under the reason."""
        if not names:
            return self
        left_out = [member.name for member in self.members if member.name in names]
        return replace(
            self,
            members=[member for member in self.members if member.name not in names],
            excluded={**self.excluded, reason: [*self.excluded.get(reason, []), *left_out]},
        )

    def fingerprint(self) -> str:
        """Return a hash of the images' files, in order."""
        return hashlib.sha256("\n".join(member.sha256 for member in self.members).encode()).hexdigest()


@dataclass(frozen=True)
class Preparation:
    """Resize and crop, applied to every image of both sides before it is evaluated."""

    size: int  # pixels; 0: images stay as they are
    crop: str  # center, or hand: the square on the long side that contains the annotated hand

    def __str__(self) -> str:
        if not self.size:
            return "none: images as they are"
        return f"short side to {self.size} px (bilinear, antialiased), {self.crop} crop to {self.size} x {self.size}"

    def __call__(self, data: bytes, box: Box | None) -> np.ndarray:
        """Decode an image file and return its pixels (height, width, 3) as uint8."""
        image = _decoded(data)
        if self.size and image.size != (self.size, self.size):
            image = self._window(image.width, image.height, box).crop(image)
        return np.asarray(image)

    def box(self, member: Member) -> Box:
        """Return the box of a member that has one, in fractions of the prepared image."""
        assert member.box, f"{member.name} has no box"
        return self._window(member.width, member.height, member.box).box(member.box) if self.size else member.box

    def _window(self, width: int, height: int, box: Box | None) -> Window:
        return window(width, height, self.size, box if self.crop == "hand" else None)


def folder_set(folder: Path, option: str) -> ImageSet:
    """Return all images below a folder in the order of their names, with their prompts if `generate` made them.

    Files that cannot be decoded are left out by name. Raises `UserError` if no image is left.
    """
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is not a folder: name one with images")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    if not names:
        raise UserError(f"{option} {folder} contains no image ({', '.join(sorted(SUFFIXES))}): name another folder")
    texts = read_prompts(folder)
    members = (_member(name, (folder / name).read_bytes(), texts.get(name)) for name in _progress(names, option))
    return _image_set(str(folder), members, lambda member: (folder / member.name).read_bytes(), option)


def dataset_set(photographs: Photographs, split: str, option: str) -> ImageSet:
    """Return the images of a dataset's split in the order of their image_id, with their texts and boxes."""
    rows = {row.image_id: index for index, row in enumerate(photographs.rows)}
    members = (
        _member(row.image_id, photographs.image(rows[row.image_id]), row.text, row.box)
        for row in _progress(photographs.rows, option)
    )
    source = f"{photographs.place}:{split}"
    return _image_set(source, members, lambda member: photographs.image(rows[member.name]), option)


def partners(fake: ImageSet, base: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return both sets with only the images whose names are in both, in the same order.

    Raises `UserError` if no name is in both.
    """
    shared = {member.name for member in fake.members} & {member.name for member in base.members}
    if not shared:
        raise UserError(
            f"--fake {fake.source} and --base {base.source} have no image of the same name: "
            "generate both from the same prompts and seeds"
        )
    pair = [images.without({m.name for m in images.members} - shared, NO_PARTNER) for images in (fake, base)]
    return pair[0], pair[1]


def _image_set(source: str, checked: Iterable[Member | str], read: Callable[[Member], bytes], option: str) -> ImageSet:
    members: list[Member] = []
    broken: list[str] = []
    for member in checked:
        if isinstance(member, str):
            broken.append(member)
        else:
            members.append(member)
    if not members:
        raise UserError(f"{option} {source}: none of its {len(broken)} images can be decoded, the first is {broken[0]}")
    return ImageSet(source, members, read, {CANNOT_DECODE: broken} if broken else {})


def _member(name: str, data: bytes, text: str | None, box: Box | None = None) -> Member | str:
    """Return the member for an image file, or only its name if it cannot be decoded."""
    try:
        image = _decoded(data)
    except UnreadableImage:
        return name
    sha256, black = hashlib.sha256(data).hexdigest(), is_black(image)
    return Member(name, sha256, image.width, image.height, black, not black and is_one_colour(image), text, box)


def _decoded(data: bytes) -> Any:
    with open_image(data) as image:
        return upright(image)


def _progress(items: Sequence[Any], option: str) -> Iterator[Any]:
    return iter(bar(items, desc=f"read {option}", unit="image"))
