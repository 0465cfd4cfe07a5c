"""Images and texts in tars, Parquet files and lists of metadata: the forms in which datasets are shared."""

import csv
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from handdata.errors import UserError
from handdata.files import whole_file
from handdata.readers import lines_of, read_text

TAR_NAMES = (".tar", ".tar.gz", ".tgz")
_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_LARGEST = 1 << 28  # bytes of a member of a tar
_LARGEST_TEXT = 1 << 20
_TEXTS, _GESTURES, _SUBJECTS = ("text", "caption", "prompt"), ("gesture", "label"), ("subject", "person", "user_id")


@dataclass(frozen=True)
class Item:
    """An image with its text, gesture and person, as far as they are known."""

    name: str  # in its place, with slashes
    path: Path  # of its file
    copied: bool = False  # the file was written by this program, under the hash of its bytes
    text: str = ""
    gesture: str = ""
    subject: str = ""


def taken(item: Item, row: dict[str, Any], where: str) -> Item:
    """Return an image with the text, gesture and person in a row of metadata; a person's number becomes its digits.

    Raises `UserError`, beginning with `where`, for a person or gesture of another type: without it one person could be
    in several splits.
    """

    def first(names: tuple[str, ...], otherwise: str, kinds: tuple[type, ...] = (str,)) -> str:
        for name in names:
            value = row.get(name)
            if value is not None and type(value) not in kinds:
                expected = "text or an integer" if int in kinds else "text"
                raise UserError(f"{where}: '{name}' of {item.name} is {str(value)[:40]!r}, not {expected}: correct it")
            if text := " ".join(str(value).split()) if value is not None else "":
                return text
        return otherwise

    texts = {name: value for name in _TEXTS if isinstance(value := row.get(name), str)}
    row = {**row, **dict.fromkeys(_TEXTS), **texts}  # of other types: absent
    return replace(
        item,
        text=first(_TEXTS, item.text),
        gesture=first(_GESTURES, item.gesture),
        subject=first(_SUBJECTS, item.subject, (str, int)),
    )


def metadata_rows(path: Path, option: str) -> dict[Path, dict[str, Any]]:
    """Return the rows of an `imagefolder`'s metadata.jsonl or metadata.csv by the file that each describes.

    Raises `UserError` for a line that cannot be read, and for a name outside the folder.
    """
    text = read_text(path, option)
    if path.suffix == ".csv":
        try:
            rows: list[Any] = list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise UserError(f"{option} {path} cannot be read as CSV ({error}): correct it") from None
    else:
        rows = [_object(line, f"{option} {path}, line {n}") for n, line in enumerate(lines_of(text), 1) if line.strip()]
    found = {}
    for number, row in enumerate(rows, 1):
        name = row.get("file_name")
        where = f"{option} {path}, row {number}"
        if not isinstance(name, str) or not name:
            raise UserError(f"{where} has no 'file_name': name the image file that the row describes")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise UserError(f"{where}: file_name {name[:80]!r} leads out of the folder: correct it")
        if not (path.parent / name).is_file():
            raise UserError(f"{where}: {name[:80]} does not exist: add the file, or remove the row")
        found[path.parent / name] = row
    return found


def in_tar(path: Path, copies: Path, option: str) -> Iterator[Item]:
    """Yield the images of a WebDataset tar: members of one key belong together (`0001.jpg`, `0001.txt`, `0001.json`).

    A key is a name up to its first dot. Names of photographs may have more dots: all images of one key are kept, and a
    text with an image's whole name belongs to that image. Raises `UserError` for a damaged tar.
    """
    images: dict[str, Item] = {}  # by the member's name
    texts: dict[str, dict[str, Any]] = {}  # by the member's name up to its last dot
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                base = member.name.rpartition("/")[2]
                stem, _, ending = member.name.rpartition(".")
                ending = ending.lower()
                if not member.isfile() or base.startswith(".") or "." not in base or member.size > _LARGEST:
                    continue
                opened = archive.extractfile(member)
                if opened is None:
                    continue
                if f".{ending}" in (*_ENDINGS.values(), ".jpeg", ".heic", ".heif"):
                    images[member.name] = Item(member.name, _written(opened.read(), copies, f".{ending}"), copied=True)
                elif ending in ("txt", "caption", "json") and member.size <= _LARGEST_TEXT:
                    data = opened.read().decode("utf-8", "replace")
                    row = _object(data, f"{option} {path}, {member.name}") if ending == "json" else {"text": data}
                    texts.setdefault(stem, {}).update(row)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{option} {path} is not a whole tar ({str(error)[:100]}): copy it again") from None
    yield from _with_texts(images, texts, f"{option} {path}")


def _with_texts(images: dict[str, Item], texts: dict[str, dict[str, Any]], where: str) -> Iterator[Item]:
    """Yield images by member name with the texts of their own name, else of their key.

    Where a key has several images, only a text whose name is the key belongs to all of them.
    """
    shared = Counter(map(_key, images))
    by_key: dict[str, dict[str, Any]] = {}
    for stem, row in texts.items():
        if shared[_key(stem)] == 1 or stem == _key(stem):
            by_key.setdefault(_key(stem), {}).update(row)
    for name, item in images.items():
        own = texts.get(name.rpartition(".")[0], {})
        yield taken(item, {**by_key.get(_key(name), {}), **own}, where)


def _key(name: str) -> str:
    """Return a member's name up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def in_parquet(path: Path, copies: Path, option: str) -> Iterator[Item]:
    """Yield the images of a Parquet file of a dataset: its first column of images, as `datasets` stores them.

    Raises `UserError` for a damaged file, and for one without such a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image

    try:
        file = pq.ParquetFile(path)
        features = Features.from_arrow_schema(file.schema_arrow)
        images = [name for name, kind in features.items() if isinstance(kind, Image) or _holds_images(kind)]
        if not images:
            raise UserError(f"{option} {path} has no column of images: name a dataset with one")
        number = 0
        for batch in file.iter_batches(batch_size=32):
            for row in batch.to_pylist():
                data = (row[images[0]] or {}).get("bytes")
                if not data:
                    raise UserError(f"{option} {path}: row {number} holds no image: embed the images' bytes")
                for column, kind in features.items():
                    if isinstance(kind, ClassLabel) and isinstance(row[column], int):
                        row[column] = kind.int2str(row[column]) if row[column] >= 0 else None  # -1: unknown
                name, written = f"{path.name} row {number:06d}", _written(data, copies, _ending(data))
                yield taken(Item(name, written, copied=True), row, f"{option} {path}")
                number += 1
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(f"{option} {path} cannot be read as Parquet ({str(error)[:100]}): copy it again") from None


def _holds_images(kind: Any) -> bool:
    """Return whether a column without a declared type is stored as `datasets` stores images."""
    return isinstance(kind, dict) and set(kind) == {"bytes", "path"}


def _ending(data: bytes) -> str:
    from handdata.vision.pixels import UnreadableImage, open_image

    try:
        with open_image(data) as image:
            return _ENDINGS.get(str(image.format), ".img")
    except UnreadableImage:
        return ".img"  # the reason is found when it is measured


def _written(data: bytes, copies: Path, ending: str) -> Path:
    path = copies / f"{hashlib.sha256(data).hexdigest()[:32]}{ending}"
    if not path.exists():
        with whole_file(path, sync=False) as partial:
            partial.write_bytes(data)
    return path


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object: correct it")
    return value
