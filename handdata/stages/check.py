"""The stage `check`: a last check of the final texts, and remarks on rows that deserve a look."""

from dataclasses import asdict
from typing import Any, ClassVar

from handdata.gestures import gestures
from handdata.recipe import CheckOptions
from handdata.stages import Columns
from handdata.texts.checks import REMARKS, failures

_INPUTS = (
    "caption", "gesture", "text", "rewrite", "draft_checks", "labels", "hand_landmarks", "landmarks_in_box",
)  # fmt: skip


class FinalChecks:
    """Check the final texts; add remarks to rows that are kept but deserve a look."""

    version: ClassVar = 1
    inputs: ClassVar[tuple[str, ...]] = _INPUTS
    final_reasons: ClassVar[frozenset[str]] = frozenset()

    @staticmethod
    def fingerprint(options: CheckOptions) -> Any:
        return {**asdict(options), "gestures": {name: asdict(gesture) for name, gesture in gestures().items()}}

    def __init__(self, options: CheckOptions) -> None:
        self._options = options

    def __call__(self, columns: Columns) -> Columns:
        """Return `checks`: failures of caption and drafts, and remarks. Asserts that the final texts pass."""
        rows = [dict(zip(_INPUTS, row, strict=True)) for row in zip(*(columns[n] for n in _INPUTS), strict=True)]
        for row in rows:
            failed = failures(row["caption"], row["gesture"], row["text"])
            assert not failed, f"a final text fails {failed}: {row['text']!r} of the caption {row['caption']!r}"
        checks = [[*row["draft_checks"], *remarks(row, self._options)] for row in rows]
        return {"checks": checks, "reason": [None] * len(rows)}


def remarks(row: dict[str, Any], options: CheckOptions) -> list[str]:
    """Return the names of REMARKS that apply to a row."""
    hands = len(row["hand_landmarks"])
    applies = {
        "image:no-hand": not hands,
        "image:hand-outside-box": bool(hands) and row["landmarks_in_box"] < options.in_box,
        "image:more-hands": hands > len(row["labels"]),
        "text:template": row["rewrite"] == "template",
    }
    return [name for name in REMARKS if applies.get(name)]
