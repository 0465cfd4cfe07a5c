"""Sentences on gestures and splits with fewer rows than requested: how many rows were not taken, and why."""

from collections.abc import Mapping
from typing import Any

from handdata.rows.schema import REASONS

# Why an annotated image is not selected, by the names in run.json.
SELECTION = {
    "not-in-archive": "missing in the archive, or dropped",
    "repeated-image": "annotated for two gestures",
    "subject-in-splits": "their person is in another split",
    "min_hand": "min_hand",
    "single_hand": "single_hand",
    "max_per_subject": "max_per_subject",
}


def of_selection(shortfall: Mapping[str, Any]) -> str:
    """Return a sentence on an entry `shortfalls` of the selection in run.json."""
    place = "{gesture}, {split}: {lacking:,} images fewer than requested".format(**shortfall)
    counts = shortfall.get("not_taken")  # missing in builds of earlier versions
    if counts is None:
        return place
    return f"{place}; {_why(counts, SELECTION) or 'all annotated images are taken'}"


def of_dataset(shortfall: Mapping[str, Any]) -> str:
    """Return a sentence on an entry `shortfalls` of assembled.json."""
    place = "{gesture}, {split}: {there:,} of {asked:,} rows; no spares are left".format(**shortfall)
    why = _why(shortfall.get("not_taken", {}), {name: f"{name} ({text})" for name, text in REASONS.items()})
    return f"{place}; {why}" if why else place


def _why(counts: Mapping[str, int], words: Mapping[str, str]) -> str:
    """Return the reasons with their counts, such as `not taken: 38 of 39 by max_per_subject, 1 by min_hand`."""
    total = sum(counts.values())
    if not total:
        return ""
    (reason, most), *rest = sorted(counts.items(), key=lambda pair: -pair[1])
    parts = [f"{most:,} of {total:,} by {words.get(reason, reason)}"]
    return "not taken: " + ", ".join([*parts, *(f"{count:,} by {words.get(name, name)}" for name, count in rest)])
