"""The photographs of a place, in whichever form it holds them, with the gesture, person and text that came with each.

A place is a folder, a tar, or a dataset on the Hub (hf:USER/NAME). Folders hold image files, `<gesture>/` or
`<person>/` folders of them, a Hugging Face `imagefolder` with metadata.jsonl or metadata.csv, captions in `.txt` files
next to the images, WebDataset tars, or Parquet files with a column of images. Names in tars and tables never become
paths: their images are written under the hashes of their bytes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from handdata.errors import UserError
from handdata.files import whole_file
from handdata.gestures import gestures as all_gestures
from handdata.huggingface import HubName, Place, at_commit, parse, snapshot
from handdata.photos.tables import TAR_NAMES, Item, in_parquet, in_tar, metadata_rows, taken
from handdata.readers import read_text
from handdata.sources.places import is_build, normal_gesture, safe_member

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif")
_SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test", "data", "images")  # neither gestures nor persons
_PATTERNS = ("*.parquet", "*.tar", "*.jsonl", "*.csv", "*.txt", *(f"*{end}" for end in IMAGES))


@dataclass(frozen=True)
class Photo:
    """One photograph: where its file is, and what came with it."""

    folder: Path
    member: str  # path below the folder
    source: str  # name of the place, for the column `source`
    name: str  # as its owner knows it, for messages
    gesture: str
    subject: str  # name of the person, empty if unknown
    text: str  # caption or finished text, empty if none came with it

    @property
    def path(self) -> Path:
        return self.folder / self.member


@dataclass(frozen=True)
class Photos:
    """The photographs of a place, in the order of their names, and the names of those without one of the gestures."""

    photos: list[Photo]
    left_out: list[str]


def resolved(place: str, option: str) -> Place:
    """Return the folder, file or commit of a dataset on the Hub. Raises `UserError` if it does not exist."""
    if place.startswith("hf:"):
        found = parse(place, option)
        return at_commit(found, "dataset", option) if isinstance(found, HubName) else found
    if not Path(place).exists():
        raise UserError(f"{option} {place} does not exist: name a folder of photographs, a tar or hf:USER/NAME")
    return Path(place)


def require_outside(place: Place, build: Path, option: str) -> None:
    """Raise `UserError` for a place inside the build folder, or the folder itself: its images are copies."""
    if isinstance(place, Path) and place.resolve().is_relative_to(build.resolve()):
        raise UserError(f"{option} {place} is in the build folder {build}: give --out a folder of its own")


def state(place: Place) -> list[list[str | int]]:
    """Return the name, size and time of each file of a place, or the commit on the Hub."""
    if isinstance(place, HubName):
        return [[str(place)]]
    files = [place] if place.is_file() else sorted(_walk(place))
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def read(place: Place, gestures: tuple[str, ...], copies: Path, option: str) -> Photos:
    """Return the photographs of a place that show one of the gestures; `copies` is the folder for those of tars.

    Raises `UserError` for a place without photographs of the gestures.
    """
    label = place.repo if isinstance(place, HubName) else place.resolve().name
    label = f"hf:{label}" if isinstance(place, HubName) else label
    folder = snapshot(place, "dataset", option, _PATTERNS) if isinstance(place, HubName) else place
    items = sorted(_items(folder, copies, option), key=lambda item: item.name)
    if not items:
        raise UserError(f"{option} {place} holds no photographs: give a folder with .jpg, .png, .webp or .heic files")
    _require_heif(items, option)
    by_gesture = any(item.gesture for item in items) or any(_part(item) in gestures for item in items)
    if len(gestures) > 1 and not by_gesture:
        raise UserError(
            f"{option} {place} has no folder {gestures[0]}/ or {gestures[1]}/: put the photographs of each gesture into"
            " a folder of its name, or name one gesture"
        )
    if not by_gesture and (other := next((_part(item) for item in items if _part(item) in all_gestures()), None)):
        raise UserError(f"{option} {place} has the folder {other}/ of another gesture: move it away, or name {other}")
    placed = [_placed(item, gestures, by_gesture, folder, copies, label) for item in items]
    photos = [photo for photo in placed if photo]
    if not photos:
        raise UserError(f"{option} {place} has no photographs of {', '.join(gestures)}: check the names of its folders")
    return Photos(photos, [item.name for item, photo in zip(items, placed, strict=True) if not photo])


def _items(folder: Path, copies: Path, option: str) -> Iterator[Item]:
    """Yield the images of a folder or tar, each with its text, gesture and person."""
    if folder.is_file():
        if not folder.name.lower().endswith(TAR_NAMES):
            raise UserError(f"{option} {folder} is neither a folder nor a tar: name the folder with the photographs")
        yield from in_tar(folder, copies, option)
        return
    files = sorted(_walk(folder))
    images = [path for path in files if path.suffix.lower() in IMAGES]
    tables: dict[Path, dict] = {}
    for path in files:
        if path.name in ("metadata.jsonl", "metadata.csv"):
            tables |= metadata_rows(path, option)
    for path in images:
        row = tables.get(path, {})
        if tables and not row:
            continue  # an `imagefolder` has the images that its metadata lists
        sidecar = path.with_suffix(".txt")
        text = read_text(sidecar, option) if not tables and sidecar.is_file() else ""
        yield taken(
            Item(path.relative_to(folder).as_posix(), path, text=" ".join(text.split())), row, f"{option} {folder}"
        )
    if images:
        return
    for path in files:
        if path.name.lower().endswith(TAR_NAMES):
            yield from in_tar(path, copies, option)
        elif path.suffix == ".parquet":
            yield from in_parquet(path, copies, option)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its folders, except hidden ones and those of builds, whose images are copies."""
    paths = list(folder.rglob("*"))
    builds = {path.parent for path in paths if path.name == "recipe.toml" and is_build(path.parent)} - {folder}
    for path in paths:
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if not hidden and builds.isdisjoint(path.parents) and path.is_file():
            yield path


def _parts(item: Item) -> list[str]:
    """Return the folders in an image's name that may name a gesture or a person."""
    parts = PurePosixPath(item.name.replace("\\", "/")).parent.parts
    return [part for part in parts if part.lower() not in _SPLIT_FOLDERS and part not in ("/", "..", ".")]


def _part(item: Item) -> str:
    return normal_gesture(next(iter(_parts(item)), "")).lower()


def _placed(
    item: Item, gestures: tuple[str, ...], by_gesture: bool, folder: Path, copies: Path, label: str
) -> Photo | None:
    """Return an image as a photograph of its gesture and person, None for another gesture."""
    parts, gesture = _parts(item), normal_gesture(item.gesture).lower()
    if not gesture and by_gesture and parts:
        gesture, parts = _part(item), parts[1:]
    gesture = gesture or (gestures[0] if not by_gesture else "")
    if gesture not in gestures:
        return None
    path = item.path if item.copied or _storable(item.name) else _copy(item.path, copies)
    home = copies if path.parent == copies else folder
    member = path.name if home == copies else item.name
    return Photo(home, member, label, item.name, gesture, item.subject or "/".join(parts), item.text)


def _storable(name: str) -> bool:
    """Return whether a file's name can be a member's name in a manifest."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return safe_member(name)


def _copy(path: Path, copies: Path) -> Path:
    data = path.read_bytes()
    copy = copies / f"{hashlib.sha256(data).hexdigest()[:32]}{path.suffix.lower()}"
    if not copy.exists():
        with whole_file(copy, sync=False) as partial:
            partial.write_bytes(data)
    return copy


def _require_heif(items: list[Item], option: str) -> None:
    """Raise `UserError` for HEIC files without the package that opens them."""
    heic = [item.name for item in items if item.path.suffix.lower() in (".heic", ".heif")]
    if heic:
        try:
            import pillow_heif  # noqa: F401
        except ImportError:
            raise UserError(
                f"{option}: {heic[0]} and {len(heic) - 1} more are HEIC: pip install 'hand1000[heif]', or save them as"
                " JPEG"
            ) from None
