"""Decisions of people about rows: every run replays the file `decisions.jsonl`, which is only appended to."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from handdata.errors import UserError

What = Literal["accepted", "rejected", "edited", "dropped"]


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
    """Append decisions to a build's file and sync it to disk. Raises `UserError` for an incomplete decision."""
    lines = [_line(decision) for decision in decisions]
    path = build / "decisions.jsonl"
    with path.open("ab") as file:
        file.truncate(_whole_lines(path))
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())


def replay(build: Path) -> Decisions:
    """Return a build's decisions, replayed in order. Raises `UserError` naming a line that is not a decision."""
    path, decisions = build / "decisions.jsonl", Decisions()
    if not path.exists():
        return decisions
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            decision = Decision(**json.loads(line))
            _check(decision)
        except (ValueError, TypeError, UserError):
            if number == len(lines):  # no newline after it: a write was interrupted
                continue
            raise UserError(f"{path}, line {number} is not a decision: fix or remove that line") from None
        _apply(decisions, decision)
    return decisions


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


def _whole_lines(path: Path) -> int:
    """Return the length of the file without an incomplete last line."""
    return path.read_bytes().rfind(b"\n") + 1
