"""Irregularities of a source's annotations and archives: counted, with examples, and reported."""

from collections import Counter
from dataclasses import dataclass, field

# Every kind of irregularity, with its description in the report.
ODDITIES = {
    "not-a-record": "not a table with boxes and labels: left out",
    "bad-image-id": "the image id has characters other than letters, digits, - and _: left out",
    "no-subject": "no user_id, so that it cannot be assigned to a split: left out",
    "uneven-boxes": "different numbers of labels and boxes: left out",
    "bad-label": "a label is not a text: left out",
    "box-empty": "a box without area or with values that are not numbers: that box left out",
    "box-clipped": "a box extended beyond the image: clipped",
    "no-gesture": "no box has the gesture's label: left out",
    "united-only": "only the box around both hands has the gesture's label: that box added",
    "repeated-image": "the image is annotated for several gestures: kept for the first in alphabetical order",
    "subject-in-splits": "the person appears in several of HaGRID's splits: kept for test, then val, then train",
    "image-missing": "annotated, but not in the archive: left out",
    "repeated-member": "the archive has several members for the image: the last one is used",
    "photo-unreadable": "the file is not a whole image: left out",
    "photo-repeated": "the same pixels as another photograph: left out",
    "photo-without-hand": "no hand is found: left out",
    "photo-differs": "no hand is like those of the other photographs: the nearest one is taken, with a remark",
    "photo-of-other-gesture": "outside the folders of the recipe's gestures, or of another gesture: left out",
}


@dataclass
class Oddities:
    """The number of irregularities and the first examples of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.add_many(kind, [example], 1)

    def add_many(self, kind: str, examples: list[str], count: int) -> None:
        """Count irregularities; `examples` are the first images with this kind."""
        assert kind in ODDITIES, kind
        if count:
            self.counts[kind] += count
            self.examples[kind] = (self.examples.get(kind, []) + list(map(_printable, examples)))[:3]

    def merge(self, other: "Oddities") -> None:
        for kind, count in other.counts.items():
            self.add_many(kind, other.examples[kind], count)

    def lines(self) -> list[str]:
        """Return the report: one line per kind, most frequent first."""
        return [
            f"{count:>9,}  {ODDITIES[kind]} (e.g. {', '.join(self.examples[kind])})"
            for kind, count in self.counts.most_common()
        ]


def _printable(text: str) -> str:
    """Return an example as it can be stored and printed: foreign names may hold any character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
