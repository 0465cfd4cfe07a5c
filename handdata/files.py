"""Files that are whole or absent: writes that appear by rename, hashes, seals, locks, and free disk space."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from handdata.errors import Unfinished, UserError
from handdata.readers import read_json

_FAR = 2**30  # position of the byte that is locked on Windows
_SEAL = "sha256"  # last key of a sealed JSON file: hash of its name and all other keys


@contextmanager
def whole_file(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yield a path next to `path` to write to; the file appears by rename when the block ends, or not at all.

    With `sync` its content is on the disk before it appears, so that a power failure cannot leave an empty file.
    Raises `UserError` where a folder has the file's name, or a file that of its folder.
    """
    make_folder(path.parent)
    if path.is_dir():
        raise UserError(f"{path} is a folder, but a file is needed there: move it away")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if sync:
            _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises `UserError` where a file has its name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(path for path in (folder, *folder.parents) if path.exists() and not path.is_dir())
        raise UserError(f"{file} is a file, but a folder is needed there: move it away") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent."""
    with whole_file(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file that is whole or absent."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file that is whole or absent."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, whole or absent, with a hash of its content and the file's name."""
    write_json(path, {**value, _SEAL: _hash_of(value, path.name)})


def read_sealed_json(path: Path) -> dict[str, Any] | None:
    """Return an object that `write_sealed_json` wrote; None if it is missing, damaged, changed, or of another file."""
    value: dict[str, Any] | None = read_json(path)
    if value is None or value.pop(_SEAL, None) != _hash_of(value, path.name):
        return None
    return value


def write_jsonl(path: Path, values: Iterator[Any] | list[Any]) -> None:
    """Write a file with one JSON value per line, whole or absent."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def remove_partial(folder: Path, name: str = "*") -> None:
    """Remove the incomplete files and folders, or those of one name, that killed processes left in a folder."""
    for partial in folder.glob(f".{name}.partial" if name == "*" else f".{name}.*.partial"):
        remove(partial)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder next to `folder`; it replaces `folder` when the block ends, or not at all.

    A folder that an earlier process moved aside and did not replace is moved back first.
    """
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    partial, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("partial", "old"))
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    remove(partial)
    make_folder(partial)
    try:
        yield partial
        remove(old)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        remove(partial)
        if folder.exists():
            remove(old)


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk; Windows has no call for it."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_by_path(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder by its relative path, in the order of the paths."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


@contextmanager
def locked(path: Path, busy: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock file for this process. Raises `UserError` with the message `busy` while another process holds it.

    Several processes may hold it if all of them want it `shared`. `{process}` in the message becomes the id of the
    process that locked the file last.
    """
    with _lock_file(path) as file:
        try:
            _lock(file, shared, wait=False)
        except BlockingIOError:
            file.seek(0)
            raise UserError(busy.replace("{process}", file.read().strip())) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs; wait for another process that holds it."""
    with _lock_file(path) as file:
        _lock(file, shared=False, wait=True)
        yield


def require_writable_folder(folder: Path, option: str) -> None:
    """Make the folder if it is missing and write a file in it; raise `UserError` naming the option if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{option} {folder} cannot be written ({reason}): choose another folder") from None


def require_only(folder: Path, ours: Iterable[str], option: str) -> None:
    """Raise `UserError` if a folder that is to be replaced holds a file that the program did not write.

    `ours` are the paths of the program's files, relative to the folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is a file: give a folder")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    foreign = sorted(present - set(ours))
    if foreign:
        raise UserError(
            f"{option} {folder} holds '{foreign[0]}', which publish did not write: move it, or give an empty folder"
        )


def require_room(folder: Path, size: int, purpose: str) -> None:
    """Raise `Unfinished` if a folder's disk has less than `size` bytes free.

    `purpose` is the subject of the message, such as `the archive`.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise Unfinished(f"{purpose} needs {size / 1e9:,.2f} GB in {folder}, {free / 1e9:,.2f} GB are free: make room")


def _lock_file(path: Path) -> TextIO:
    if path.is_dir():
        raise UserError(f"{path} is a folder, but a file is needed there: move it away")
    return path.open("a+", encoding="utf-8", errors="replace")


def _lock(file: TextIO, shared: bool, wait: bool) -> None:
    """Lock an open file until it is closed. Raises `BlockingIOError` for another process's lock, unless to `wait`."""
    try:
        import fcntl
    except ImportError:
        _lock_on_windows(file, wait)
        return
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _lock_on_windows(file: TextIO, wait: bool) -> None:
    """Lock a byte behind the file's end, so that others can read the file. A shared lock is exclusive there."""
    import msvcrt

    system: Any = msvcrt
    while True:
        file.seek(_FAR)
        try:
            system.locking(file.fileno(), system.LK_NBLCK, 1)
        except OSError as error:
            if not wait:
                raise BlockingIOError(*error.args) from None
            time.sleep(0.1)
        else:
            return


def _hash_of(value: dict[str, Any], name: str) -> str:
    """Return the seal of an object in a file of this name: another sealed file has other keys."""
    return hashlib.sha256(f"{name}\n{json.dumps(value, sort_keys=True)}".encode()).hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
