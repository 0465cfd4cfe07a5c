"""Image folders of any program: the files below a folder, and their prompts from whatever lists them.

Prompts are read from a text file next to an image (`a.png`, `a.txt`), from a CSV file with a column of file names and
one of texts, and from generation.jsonl of `handtrain generate`, in each folder below the given one.
"""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from handdata.errors import UserError
from handdata.readers import read_text
from handtrain.data.image_folder import RECORDS_FILE, SUFFIXES, read_prompts

ENDINGS = SUFFIXES | {".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"}
FILES = ("file_name", "filename", "file", "image", "path", "name")  # columns of a CSV file, in any case
TEXTS = ("prompt", "text", "caption")

_LONGEST_TEXT = 100_000  # bytes of a text file next to an image; longer ones are not prompts


@dataclass(frozen=True)
class Picture:
    """An image file, not opened yet."""

    name: str  # below its folder, with slashes; images of one name in two folders are compared
    path: Path
    prompt: str | None


@dataclass(frozen=True)
class Folder:
    """The image files below a folder, in the order of their names."""

    name: str  # as the caller gave it
    pictures: list[Picture]
    others: int  # number of files that are neither images by their name nor lists of prompts
    notes: list[str] = field(default_factory=list)  # on lists of prompts that could not be read


def open_folder(folder: str | Path) -> Folder:
    """Return the images below a folder, without hidden files. Raises `UserError` for one without any image."""
    root, notes = Path(folder), list[str]()
    if not root.is_dir():
        raise UserError(f"{folder} is not a folder: name one with images")
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not _hidden(path.relative_to(root))]
    images = [path for path in files if path.suffix.lower() in ENDINGS]
    lists = [path for path in files if path.name == RECORDS_FILE or path.suffix.lower() in (".csv", ".txt")]
    if not images:
        raise UserError(f"{folder} contains no image ({', '.join(sorted(ENDINGS))}): name another folder")
    listed: dict[Path, str] = {}
    for path in lists:
        if path.suffix.lower() == ".csv":
            listed |= _of_csv(path, notes)
        elif path.name == RECORDS_FILE:
            listed |= {path.parent / name: text for name, text in read_prompts(path.parent).items()}
    pictures = [
        Picture(_printable(path.relative_to(root)), path, _sidecar(path, notes) or listed.get(path)) for path in images
    ]
    return Folder(_printable(folder), pictures, len(files) - len(images) - len(lists), notes)


def _printable(path: str | Path) -> str:
    """Return a path as text that UTF-8 can hold: names on a disk may have other bytes."""
    text = path if isinstance(path, str) else path.as_posix()
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _sidecar(image: Path, notes: list[str]) -> str | None:
    """Return the text of the file of the image's name that ends in .txt, None without one."""
    file = image.with_suffix(".txt")
    if not file.is_file() or file.stat().st_size > _LONGEST_TEXT:
        return None
    try:
        return " ".join(read_text(file).split()) or None
    except UserError as error:
        notes.append(f"no prompt was read: {error}")
        return None


def _of_csv(file: Path, notes: list[str]) -> dict[Path, str]:
    """Return the texts in a CSV file by the image that a row names, relative to the file's folder."""
    try:
        rows = csv.reader(io.StringIO(read_text(file), newline=""))
        head = [cell.strip().lower() for cell in next(rows, [])]
        image, text = (next((head.index(name) for name in names if name in head), None) for names in (FILES, TEXTS))
        if image is None or text is None:
            return {}
        return {file.parent / row[image]: row[text] for row in rows if len(row) > max(image, text) and row[image]}
    except (UserError, csv.Error, ValueError) as error:
        notes.append(f"no prompts were read from {file.name}: {error}")
        return {}
