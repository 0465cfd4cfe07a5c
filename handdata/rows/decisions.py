"""Decisions of people about rows: every run replays the file `decisions.jsonl`.

It is only appended to, except that a removal (`drop`) deletes what else was decided about its images. Nothing can make
it again, so `.decisions.json` records what it held after the last write: lost lines are noticed, while lines may be
added by hand.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from handdata.errors import UserError
from handdata.files import exclusive, read_sealed_json, sync_folder, write_bytes, write_sealed_json

FILE = "decisions.jsonl"
What = Literal["accepted", "rejected", "edited", "dropped"]

_RECORD, _LOCK = ".decisions.json", ".decisions.lock"
FILES = (FILE, _RECORD)


@dataclass(frozen=True)
class Decision:
    """One decision about one image or about all images of a person."""

    what: What
    image_id: str | None = None  # the image; either this or `subject` is set
    subject: str | None = None  # the person
    text: str | None = None  # the new text, for the decision `edited`
    note: str | None = None  # the reason, in a person's words


@dataclass
class Decisions:
    """All decisions of a build: the last one about an image counts, but a dropped image stays dropped."""

    images: dict[str, Decision] = field(default_factory=dict)
    dropped_images: set[str] = field(default_factory=set)
    dropped_subjects: set[str] = field(default_factory=set)
    rejected_subjects: set[str] = field(default_factory=set)

    def about(self, image_id: str, subject: str) -> What | None:
        """Return the decision that applies to a row: dropped first, then the image's decision, then the person's."""
        if image_id in self.dropped_images or subject in self.dropped_subjects:
            return "dropped"
        if image_id in self.images:
            return self.images[image_id].what
        return "rejected" if subject in self.rejected_subjects else None

    def text(self, image_id: str) -> str | None:
        """Return the text that a person wrote for an image, None without one or after a later decision."""
        decision = self.images.get(image_id)
        return decision.text if decision and decision.what == "edited" else None


def append(build: Path, decisions: Iterable[Decision]) -> None:
    """Append decisions to a build's file and sync it to disk; several processes may do so at once.

    Raises `UserError` for an incomplete decision and a file that lost some of its lines.
    """
    lines = [_line(decision) for decision in decisions]
    if lines:
        with exclusive(build / _LOCK):
            _write(build, _kept(_content(build)) + "".join(lines).encode(), append=True)


def forget(build: Path, dropped: set[str]) -> None:
    """Remove all decisions about images and persons except that they are dropped: texts and notes describe them."""
    with exclusive(build / _LOCK):
        lines = _kept(_content(build)).split(b"\n")[:-1]
        kept = [line for line in lines if not line.strip() or _stays(_parsed(line), dropped)]
        if kept != lines:
            _write(build, b"".join(line + b"\n" for line in kept))


def replay(build: Path) -> Decisions:
    """Return a build's decisions, replayed in order. Raises `UserError` naming a line that is not a decision."""
    decisions = Decisions()
    lines = content(build).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        decision = _parsed(line)
        if decision is not None:
            _apply(decisions, decision)
        elif number < len(lines):  # without a newline after it, a write was interrupted
            raise UserError(f"{build / FILE}, line {number} is not a decision: fix or remove that line")
    return decisions


def content(build: Path) -> bytes:
    """Return the bytes of a build's file, empty without one. Raises `UserError` if decisions in it were lost."""
    try:
        return _content(build)
    except UserError:
        if not (build / _LOCK).is_file():
            raise
        with exclusive(build / _LOCK):  # another process may have been writing
            return _content(build)


def _content(build: Path) -> bytes:
    """Return the file's bytes after comparing them with the record of the last write; lines may have been added."""
    path, record = build / FILE, build / _RECORD
    written = read_sealed_json(record)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore it from a copy") from None
    if written is not None and hashlib.sha256(data[: written["bytes"]]).hexdigest() != written["content"]:
        raise UserError(
            f"{path} lacks decisions that handdata wrote, or they were changed: restore it from a copy, or delete"
            f" {record} to accept the file as it is"
        )
    return data


def _write(build: Path, data: bytes, append: bool = False) -> None:
    """Write the file and the record of its content. The lock is held."""
    path = build / FILE
    if append:
        with path.open("r+b" if path.exists() else "xb") as file:
            file.write(data)  # the first bytes are those of the file
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    else:
        (build / _RECORD).unlink(missing_ok=True)  # it is not true of the shorter file
        write_bytes(path, data)
    sync_folder(build)
    write_sealed_json(build / _RECORD, {"bytes": len(data), "content": hashlib.sha256(data).hexdigest()})


def require_whole(decision: Decision, where: str) -> None:
    """Raise `UserError`, beginning with `where`, for an incomplete decision."""
    try:
        _check(decision)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _kept(data: bytes) -> bytes:
    """Return the file's lines, without an incomplete last one; a complete one gets its newline."""
    whole = data.rfind(b"\n") + 1
    return data + b"\n" if _parsed(data[whole:]) else data[:whole]


def _stays(decision: Decision | None, dropped: set[str]) -> bool:
    return decision is None or decision.what == "dropped" or not {decision.image_id, decision.subject} & dropped


def _parsed(line: bytes) -> Decision | None:
    """Return the decision of a line, None if it is not one."""
    try:
        decision = Decision(**json.loads(line.decode("utf-8")))
        _check(decision)
    except (ValueError, TypeError, RecursionError, UserError):
        return None
    return decision


def _apply(decisions: Decisions, decision: Decision) -> None:
    if decision.subject is not None:
        if decision.what == "dropped":
            decisions.dropped_subjects.add(decision.subject)
        elif decision.what == "rejected":
            decisions.rejected_subjects.add(decision.subject)
        else:
            decisions.rejected_subjects.discard(decision.subject)
    elif decision.image_id is not None:
        decisions.images[decision.image_id] = decision
        if decision.what == "dropped":
            decisions.dropped_images.add(decision.image_id)


def _check(decision: Decision) -> None:
    for name, value in vars(decision).items():
        if value is not None and not _is_text(value):
            raise UserError(f"the value of '{name}' in a decision is not text")
    if decision.what not in get_args(What):
        raise UserError(f"a decision is one of {', '.join(get_args(What))}, not '{decision.what}'")
    if (decision.image_id is None) == (decision.subject is None):
        raise UserError("a decision names either an image id or a subject")
    if decision.what == "edited" and (not decision.text or decision.image_id is None):
        raise UserError("the decision 'edited' needs an image id and the new text")


def _line(decision: Decision) -> str:
    _check(decision)
    pairs = {key: value for key, value in vars(decision).items() if value is not None}
    return json.dumps(pairs, ensure_ascii=False) + "\n"


def _is_text(value: object) -> bool:
    """Return whether a value is a string without lone surrogates, which UTF-8 cannot hold."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
