"""The result of judging folders: images, measures and comparisons, as JSON, CSV and plain text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from handdata.shipped import versions
from handtrain.judging.measures import Entry, Measure, chosen
from handtrain.judging.pictures import Folder
from handtrain.judging.rows import JudgedImage, csv_text

FORMAT = 1  # version of the JSON
NOT_COMPUTED = {"not_computed": "the judge of anatomy was turned off"}
BLIND = (
    "HAND-CONF, the confidence that other work reports, does not see wrong anatomy: on 100 drawn malformed palms and "
    "on 100 well-formed ones it was 0.926 both times. It ignores images without a found hand."
)

_NAMES = 10  # unreadable images that are listed by name


class Anatomy(Protocol):
    """The judgement of a hand's anatomy; `flaw` is empty or None for a hand that is rather right."""

    @property
    def p_wrong(self) -> float: ...
    @property
    def fingers(self) -> int | None: ...
    @property
    def flaw(self) -> str | None: ...


class AnatomyJudge(Protocol):
    """Judges the anatomy of a hand in an image (height, width, 3) of uint8 by its landmarks (21, 3) in pixels."""

    def judge(self, image: np.ndarray, points: np.ndarray) -> Anatomy: ...


@dataclass(frozen=True)
class AnatomyMethod:
    """A way to judge anatomy, opened once in every process, and the words about it that the report shows."""

    open: Callable[[], AnatomyJudge]
    status: str  # such as experimental
    caveat: str  # a sentence


@dataclass(frozen=True)
class Judgement:
    """The judged images of all folders, and the measures of the folders."""

    folders: list[Folder]
    images: list[JudgedImage]  # by folder, then by name
    method: AnatomyMethod | None  # None: p_wrong, fingers and flaw were not computed
    judges: list[str]  # names of the other judges
    summaries: list[Entry]  # `folder` and the entries of `measures.summary`, the best folder first
    pairs: list[Entry]  # `first`, `second` and the entries of `measures.difference`

    def of(self, folder: str) -> list[JudgedImage]:
        """Return the images of a folder, given by its name."""
        number = [each.name for each in self.folders].index(folder)
        return [image for image in self.images if image.folder == number]

    def record(self) -> dict[str, Any]:
        """Return everything as the JSON file has it; docs/judge.md describes its keys."""
        anatomy = {"status": self.method.status, "caveat": self.method.caveat} if self.method else NOT_COMPUTED
        images = {each.name: [image.record() for image in self.of(each.name)] for each in self.folders}
        return {
            "format": FORMAT,
            "anatomy": anatomy,
            "judges": self.judges,
            "folders": [{**each, "images_judged": images[each["folder"]]} for each in self.summaries],
            "pairs": self.pairs,
            "versions": versions("mediapipe"),
        }

    def csv(self) -> str:
        """Return the CSV file with a row per hand (`rows.COLUMNS`, and a column per other judge)."""
        return csv_text(self.images, [each.name for each in self.folders], self.judges, self.method is not None)

    def chosen(self) -> list[Measure]:
        """Return the measures that were computed; the first one ranks the folders."""
        return chosen(self.method is not None, self.judges)

    def about_anatomy(self) -> str:
        """Return the sentence that belongs to p_wrong."""
        if self.method is None:
            return "p_wrong: not computed: the judge of anatomy was turned off."
        return f"p_wrong ({self.method.status}): {self.method.caveat}"

    def __str__(self) -> str:
        measures = self.chosen()
        lines = ["".join(f"{each.name:>30}" for each in measures) + "   images, hands  folder"]
        for entry in self.summaries:
            cells = "".join(f"{_estimate(entry['measures'][each.name]):>30}" for each in measures)
            lines.append(f"{cells}   {entry['images']:,}, {entry['hands']:,}  {entry['folder']}")
        for entry in self.summaries:
            lines += [f"{entry['folder']}: {sentence}" for sentence in counts(entry)]
        return "\n".join([*lines, self.about_anatomy(), BLIND])


def counts(entry: Entry) -> Iterator[str]:
    """Yield sentences on the images of a folder that a reader must know."""
    yield (
        f"Images: {entry['images']:,}, without a found hand: {entry['without_hand']:,}, hands: {entry['hands']:,}, "
        f"black images: {entry['black']:,}, images of another single colour: {entry['one_colour']:,}."
    )
    if entry["unreadable"]:
        faults = [f"{name} ({fault})" for name, fault in entry["unreadable"].items()]
        more = f" and {len(faults) - _NAMES:,} more" if len(faults) > _NAMES else ""
        yield f"Images that cannot be read and are left out: {', '.join(faults[:_NAMES])}{more}."
    if entry["other_files"]:
        yield f"Files that are not images by their names: {entry['other_files']:,}."
    if entry["gestures"]:
        yield "Gestures: " + ", ".join(f"{name} {count:,}" for name, count in entry["gestures"].items()) + "."
    yield from entry["notes"]


def _estimate(entry: Entry) -> str:
    if entry["value"] is None:
        return "-"
    return f"{entry['value']:.3f}" + (f" [{entry['low']:.3f}, {entry['high']:.3f}]" if entry["low"] is not None else "")
