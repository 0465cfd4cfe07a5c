"""The places of a recipe's `[source]` table and of the archives in `manifests/sources.toml`.

A place is a URL (`https://...`), a file in a Hub repository (`hf://datasets/USER/NAME[@REVISION]/FILE`) or the path of
a local file or folder. Archives move between hosts; therefore every archive is a list of places, tried in order.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from handdata.errors import UserError
from handdata.recipe import SourceOptions
from handdata.recipe.paths import absolute_place, has_gesture, with_gesture
from handdata.shipped import known_archives
from handdata.web.urls import is_remote as is_remote
from handdata.web.urls import public_names, public_url, require_url


@dataclass(frozen=True)
class Archive:
    """One archive or folder, in one or several places with the same bytes."""

    places: tuple[str, ...]  # URLs, hf:// addresses or absolute paths, in order of preference
    gesture: str | None = None  # the only gesture of its images; None: it has the images of all gestures
    image_bytes: int = 110_000  # mean size of a member, for offline plans; HaGRID's at 512 px

    @property
    def name(self) -> str:
        """The value of the manifest's column `source`: the first URL, else the bare name of a local file or folder."""
        remote = [public for place, public in zip(self.places, self.public, strict=True) if is_remote(place)]
        return remote[0] if remote else Path(self.places[0]).name

    @property
    def public(self) -> tuple[str, ...]:
        """The places as they are printed and stored: URLs without passwords and signatures."""
        return tuple(public_names(list(self.places)))


@dataclass(frozen=True)
class Sources:
    """A recipe's resolved sources: each images archive has the images of one gesture or of all."""

    annotations: Archive
    images: tuple[Archive, ...]


def resolve(options: SourceOptions, gestures: tuple[str, ...], base: Path) -> Sources:
    """Return the archives of these gestures; relative paths start at `base`, the recipe's folder.

    Raises `UserError` where places are missing, unknown, or do not fit the kind. For the kind `render` the options are
    those of the drawn archives (`handdata.stages.select`).
    """
    if not options.images:
        raise UserError("the recipe's [source] lacks 'images': give an archive, a folder or a name of sources.toml")
    annotations = options.annotations or (options.images if options.kind == "folder" else ())
    if not annotations:
        raise UserError("the recipe's [source] lacks 'annotations': give annotations.zip or a folder")
    images = _archives(options.kind, options.images, gestures, base)
    return Sources(_archives(options.kind, annotations, gestures, base)[0], images)


def names(images: tuple[Archive, ...]) -> list[str]:
    """Return the archives' values of the column `source`, each once.

    Local files with the same name are numbered (`images.zip#2`), and so are URLs with the same public form.
    """
    local = _numbered([source.name for source in images])
    remote = public_names([next(filter(is_remote, source.places), "") for source in images])
    return [url or name for url, name in zip(remote, local, strict=True)]


def addresses(options: SourceOptions, gestures: tuple[str, ...], base: Path) -> dict[str, dict[str, str]]:
    """Return the addresses to request, by the value of the column `source` and by their public form.

    A manifest holds no passwords and signatures; the recipe does. The result is empty for a recipe without `images`;
    annotations are not needed, since a build that began with a manifest has none.
    """
    if options.kind in ("render", "photos") or not options.images:
        return {}
    images = _archives(options.kind, options.images, gestures, base)
    return {
        name: dict(zip(source.public, source.places, strict=True))
        for name, source in zip(names(images), images, strict=True)
    }


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


def is_build(folder: Path) -> bool:
    """Return whether a folder is a build: its images are copies of those of a source."""
    return (folder / "recipe.toml").is_file() and any((folder / f).is_file() for f in (".lock", "manifest.parquet"))


def _numbered(given: list[str]) -> list[str]:
    """Return names that differ: the second `images.zip` becomes `images.zip#2`. No file's own name is taken."""
    named: list[str] = []
    for name in given:
        number, other = 1, name
        while other in named or (number > 1 and other in given):
            number += 1
            other = f"{name}#{number}"
        named.append(other)
    return named


def _archives(kind: str, places: tuple[str, ...], gestures: tuple[str, ...], base: Path) -> tuple[Archive, ...]:
    _check_kind(kind, places)
    known = [place for place in places if place in known_archives()]
    if known and len(places) > 1:
        raise UserError(f"[source] mixes '{known[0]}' of sources.toml with other places: use that name alone")
    table = known_archives()[known[0]] if known else {"places": places}
    image_bytes: Any = table.get("image_bytes", Archive.image_bytes)
    archives = []
    for group in table.get("archives", [table]):
        where = [absolute_place(place, base) for place in group["places"]]
        separate = any(has_gesture(place) for place in where)  # one archive per gesture
        inside = [gesture for gesture in gestures if gesture in group.get("gestures", gestures)]
        for gesture in inside if separate else [None]:
            named = tuple(with_gesture(place, gesture) for place in where)
            for place in named:
                require_url(place, "[source]")
            archives.append(Archive(named, gesture, image_bytes))
    return tuple(archives)


def _check_kind(kind: str, places: tuple[str, ...]) -> None:
    for place in places:
        if kind == "hub" and not place.startswith("hf://") and place not in known_archives():
            raise UserError(f"[source] kind 'hub' needs hf://datasets/USER/NAME/FILE, not '{public_url(place)}'")
        if kind == "folder" and is_remote(place):
            raise UserError(f"[source] kind 'folder' needs a local folder, not '{public_url(place)}'")
