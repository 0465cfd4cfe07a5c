"""The stage `checks`: the final texts checked once more, and remarks on rows that are worth a look."""

from dataclasses import asdict
from typing import Any, ClassVar

from handdata.gestures import gestures
from handdata.recipe import CheckOptions
from handdata.stages import Columns
from handdata.texts.checks import REMARKS, failures


class FinalChecks:
    """Check the final texts once more, and remark on rows that are kept but worth a look."""

    name: ClassVar = "checks"
    version: ClassVar = 1
    inputs: ClassVar = (
        "caption", "gesture", "text", "rewrite", "draft_checks", "labels", "hand_landmarks", "landmarks_in_box",
    )  # fmt: skip
    final_reasons: ClassVar[frozenset[str]] = frozenset()

    @staticmethod
    def fingerprint(options: CheckOptions) -> Any:
        return {**asdict(options), "gestures": {name: asdict(gesture) for name, gesture in gestures().items()}}

    def __init__(self, options: CheckOptions) -> None:
        self._options = options

    def __call__(self, columns: Columns) -> Columns:
        """Return `checks`: what caption and drafts failed, and remarks. A final text that fails is a bug and raises."""
        rows = [
            dict(zip(self.inputs, row, strict=True)) for row in zip(*(columns[n] for n in self.inputs), strict=True)
        ]
        for row in rows:
            found = failures(row["caption"], row["gesture"], row["text"])
            assert not found, f"a final text fails {found}: {row['text']!r} of the caption {row['caption']!r}"
        checks = [[*row["draft_checks"], *remarks(row, self._options)] for row in rows]
        return {"checks": checks, "reason": [None] * len(rows)}


def remarks(row: dict[str, Any], options: CheckOptions) -> list[str]:
    """Return the names of REMARKS that hold for a row."""
    hands = len(row["hand_landmarks"])
    found = {
        "image:no-hand": not hands,
        "image:hand-outside-box": bool(hands) and row["landmarks_in_box"] < options.in_box,
        "image:more-hands": hands > len(row["labels"]),
        "text:template": row["rewrite"] == "template",
    }
    return [name for name in REMARKS if found[name]]
