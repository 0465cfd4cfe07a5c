"""The stages of photographs that came with captions or texts, and the checks of photographs.

The manifest's column `given` has the texts, its column `remarks` what the comparison of all photographs found. No model
is loaded. `select` has checked the texts: each has at most 77 CLIP tokens, and a final text passes all checks.
"""

from typing import Any, ClassVar

from handdata.recipe import CaptionOptions, RewriteOptions
from handdata.stages import Columns
from handdata.stages.check import FinalChecks
from handdata.texts.checks import REMARKS, failures


class GivenCaptions:
    """Take the texts that came with the photographs as their captions."""

    version: ClassVar = 1
    inputs: ClassVar = ("given",)
    final_reasons: ClassVar = frozenset({"caption-empty"})

    @staticmethod
    def fingerprint(options: CaptionOptions) -> Any:
        return {"given": "caption"}

    def __init__(self, options: CaptionOptions) -> None:
        pass

    def __call__(self, columns: Columns) -> Columns:
        """Take `given`; return `caption` and `reason`."""
        given = columns["given"]
        return {"caption": given, "reason": [None if text else "caption-empty" for text in given]}


class GivenTexts:
    """Take the captions as final texts: they are what came with the photographs."""

    version: ClassVar = 1
    inputs: ClassVar = ("caption", "gesture")
    final_reasons: ClassVar = frozenset({"text-impossible"})

    @staticmethod
    def fingerprint(options: RewriteOptions) -> Any:
        return {"given": "final"}

    def __init__(self, options: RewriteOptions) -> None:
        pass

    def __call__(self, columns: Columns) -> Columns:
        """Take `caption` and `gesture`; return `text`, `rewrite`, `draft_checks` and `reason`."""
        pairs = list(zip(columns["caption"], columns["gesture"], strict=True))
        good = [not failures(caption, gesture, caption) for caption, gesture in pairs]
        return {
            "text": [caption if fits else None for (caption, _), fits in zip(pairs, good, strict=True)],
            "rewrite": ["kept" if fits else None for fits in good],
            "draft_checks": [[] for _ in pairs],
            "reason": [None if fits else "text-impossible" for fits in good],
        }


class PhotoChecks(FinalChecks):
    """Check the final texts, and add the remarks that the comparison of the photographs made."""

    inputs: ClassVar = (*FinalChecks.inputs, "remarks")

    def __call__(self, columns: Columns) -> Columns:
        """Return `checks` as `FinalChecks` does, with the column `remarks` of the manifest."""
        known = [[name for name in remarks or () if name in REMARKS] for remarks in columns["remarks"]]
        result = super().__call__({name: columns[name] for name in FinalChecks.inputs})
        checks = [[*of_row, *remarks] for of_row, remarks in zip(result["checks"], known, strict=True)]
        return {**result, "checks": checks}
