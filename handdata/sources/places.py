"""Where the photographs come from: a recipe's `[source]` table and the known archives of `manifests/sources.toml`.

A place is a URL (`https://...`), a file in a Hub repository (`hf://datasets/USER/NAME[@REVISION]/FILE`) or a local
path. Archives move between hosts, so that every archive is a list of places, tried in order; local files and folders
are places of the same standing.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from handdata.errors import UserError
from handdata.recipe import SourceOptions, absolute_place
from handdata.shipped import known_archives


@dataclass(frozen=True)
class Archive:
    """One archive or folder, in one or several places that hold the same bytes."""

    places: tuple[str, ...]  # URLs, hf:// addresses or absolute paths, in order of preference
    gesture: str | None = None  # whose images alone it holds; None: those of all
    image_bytes: int = 110_000  # mean size of a member, for plans made without asking; HaGRID's with 512 px

    @property
    def name(self) -> str:
        """What the manifest's column `source` says: the first URL, else the bare name of a local file or folder."""
        far = [place for place in self.places if is_remote(place)]
        return far[0] if far else Path(self.places[0]).name


@dataclass(frozen=True)
class Sources:
    """A recipe's sources, resolved: each images archive holds one gesture or all."""

    annotations: Archive
    images: tuple[Archive, ...]


def is_remote(place: str) -> bool:
    """Tell whether a place needs the network."""
    return place.startswith(("http://", "https://", "hf://"))


def resolve(options: SourceOptions, gestures: tuple[str, ...], base: Path) -> Sources:
    """Return the archives that hold these gestures; relative paths start at `base`, the recipe's folder.

    Raises `UserError` where places are missing, unknown, or do not fit the kind. `render` draws nothing here: its
    places are set by the build that has drawn it (`handdata.build`).
    """
    if not options.images:
        raise UserError("the recipe's [source] names no 'images': give an archive, a folder or a name of sources.toml")
    images = options.images
    annotations = options.annotations or (images if options.kind == "folder" else ())
    if not annotations:
        raise UserError("the recipe's [source] names no 'annotations': give annotations.zip or a folder")
    _check_kind(options.kind, (*annotations, *images))
    return Sources(
        annotations=_archives(annotations, gestures, base)[0],
        images=tuple(_archives(images, gestures, base)),
    )


def normal_gesture(name: str) -> str:
    """Return HaGRID's own spelling of a gesture's folder or file name: no spaces, prefixes, or `hands_heart2`."""
    name = name.replace(" ", "_")
    for prefix in ("train_val_", "train_", "test_", "val_"):
        name = name.removeprefix(prefix)
    return "hand_heart2" if name == "hands_heart2" else name


def safe_member(name: str) -> bool:
    """Tell whether a member's name stays inside its archive: relative, without `..` or other systems' roots."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name)


def _archives(places: tuple[str, ...], gestures: tuple[str, ...], base: Path) -> list[Archive]:
    names = [place for place in places if place in known_archives()]
    if names and len(places) > 1:
        raise UserError(f"[source] mixes '{names[0]}' of sources.toml with other places: that name must stand alone")
    table = known_archives()[names[0]] if names else {"places": places}
    groups = table.get("archives", [table])
    image_bytes: Any = table.get("image_bytes", Archive.image_bytes)
    archives = []
    for group in groups:
        inside = [gesture for gesture in gestures if gesture in group.get("gestures", gestures)]
        where = [absolute_place(place, base) for place in group["places"]]
        if not any("{gesture}" in place for place in where):
            archives.append(Archive(tuple(where), None, image_bytes))
            continue
        archives += [
            Archive(tuple(place.replace("{gesture}", gesture) for place in where), gesture, image_bytes)
            for gesture in inside
        ]
    return archives


def _check_kind(kind: str, places: tuple[str, ...]) -> None:
    for place in places:
        if kind == "hub" and not place.startswith("hf://") and place not in known_archives():
            raise UserError(f"[source] kind 'hub' needs hf://datasets/USER/NAME/FILE, not '{place}'")
        if kind == "folder" and is_remote(place):
            raise UserError(f"[source] kind 'folder' needs a local folder, not '{place}'")
