"""The places of a recipe's `[source]` table and of the archives in `manifests/sources.toml`.

A place is a URL (`https://...`), a file in a Hub repository (`hf://datasets/USER/NAME[@REVISION]/FILE`) or the path of
a local file or folder. Archives move between hosts; therefore every archive is a list of places, tried in order.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from handdata.errors import UserError
from handdata.recipe import SourceOptions, absolute_place, has_gesture, with_gesture
from handdata.shipped import known_archives


@dataclass(frozen=True)
class Archive:
    """One archive or folder, in one or several places with the same bytes."""

    places: tuple[str, ...]  # URLs, hf:// addresses or absolute paths, in order of preference
    gesture: str | None = None  # the only gesture of its images; None: it has the images of all gestures
    image_bytes: int = 110_000  # mean size of a member, for offline plans; HaGRID's at 512 px

    @property
    def name(self) -> str:
        """The value of the manifest's column `source`: the first URL, else the bare name of a local file or folder."""
        return next(filter(is_remote, self.places), Path(self.places[0]).name)


@dataclass(frozen=True)
class Sources:
    """A recipe's resolved sources: each images archive has the images of one gesture or of all."""

    annotations: Archive
    images: tuple[Archive, ...]


def is_remote(place: str) -> bool:
    """Return whether a place needs the network."""
    return place.startswith(("http://", "https://", "hf://"))


def resolve(options: SourceOptions, gestures: tuple[str, ...], base: Path) -> Sources:
    """Return the archives of these gestures; relative paths start at `base`, the recipe's folder.

    Raises `UserError` where places are missing, unknown, or do not fit the kind. For the kind `render` the options are
    those of the drawn archives (`handdata.stages.select`).
    """
    if not options.images:
        raise UserError("the recipe's [source] lacks 'images': give an archive, a folder or a name of sources.toml")
    images = options.images
    annotations = options.annotations or (images if options.kind == "folder" else ())
    if not annotations:
        raise UserError("the recipe's [source] lacks 'annotations': give annotations.zip or a folder")
    _check_kind(options.kind, (*annotations, *images))
    return Sources(
        annotations=_archives(annotations, gestures, base)[0],
        images=tuple(_archives(images, gestures, base)),
    )


def normal_gesture(name: str) -> str:
    """Return HaGRID's usual spelling of a gesture's folder or file name: no spaces, prefixes, or `hands_heart2`."""
    name = name.replace(" ", "_")
    for prefix in ("train_val_", "train_", "test_", "val_"):
        name = name.removeprefix(prefix)
    return "hand_heart2" if name == "hands_heart2" else name


def safe_member(name: str) -> bool:
    """Return whether a member's name stays inside its archive: relative, without `..` or other systems' roots."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name)


def _archives(places: tuple[str, ...], gestures: tuple[str, ...], base: Path) -> list[Archive]:
    names = [place for place in places if place in known_archives()]
    if names and len(places) > 1:
        raise UserError(f"[source] mixes '{names[0]}' of sources.toml with other places: use that name alone")
    table = known_archives()[names[0]] if names else {"places": places}
    image_bytes: Any = table.get("image_bytes", Archive.image_bytes)
    archives = []
    for group in table.get("archives", [table]):
        where = [absolute_place(place, base) for place in group["places"]]
        separate = any(has_gesture(place) for place in where)  # one archive per gesture
        inside = [gesture for gesture in gestures if gesture in group.get("gestures", gestures)]
        for gesture in inside if separate else [None]:
            named = tuple(with_gesture(place, gesture) for place in where)
            archives.append(Archive(named, gesture, image_bytes))
    return archives


def _check_kind(kind: str, places: tuple[str, ...]) -> None:
    for place in places:
        if kind == "hub" and not place.startswith("hf://") and place not in known_archives():
            raise UserError(f"[source] kind 'hub' needs hf://datasets/USER/NAME/FILE, not '{place}'")
        if kind == "folder" and is_remote(place):
            raise UserError(f"[source] kind 'folder' needs a local folder, not '{place}'")
