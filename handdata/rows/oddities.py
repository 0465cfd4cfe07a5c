"""What is odd about the annotations and archives of a source: counted, with examples, never silently dropped."""

from collections import Counter
from dataclasses import dataclass, field

# What can be odd about a record, with the sentence of the report.
ODDITIES = {
    "not-a-record": "not a table with boxes and labels: left out",
    "bad-image-id": "the image id is not made of letters, digits, - and _: left out",
    "no-subject": "without user_id, so that no split is safe for it: left out",
    "uneven-boxes": "not as many labels as boxes: left out",
    "box-empty": "a box without area or with values that are no numbers: that box left out",
    "box-clipped": "a box reached beyond the image: clipped",
    "no-gesture": "no box carries the gesture: left out",
    "united-only": "only the box around both hands carries the gesture: that box added",
    "repeated-image": "the image is annotated for several gestures: kept for the first in alphabetical order",
    "subject-in-splits": "the person appears in several of HaGRID's splits: kept for test, then val, then train",
    "image-missing": "annotated, but not in the archive: left out",
    "repeated-member": "the archive holds several members for the image: the last is taken",
}


@dataclass
class Oddities:
    """What was odd: how often, and the first images of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.add_many(kind, [example], 1)

    def add_many(self, kind: str, examples: list[str], count: int) -> None:
        """Count an oddity; `examples` are the first images that show it, none where the count is 0."""
        assert kind in ODDITIES, kind
        if count:
            self.counts[kind] += count
            self.examples[kind] = (self.examples.get(kind, []) + examples)[:3]

    def merge(self, other: "Oddities") -> None:
        for kind, count in other.counts.items():
            self.add_many(kind, other.examples[kind], count)

    def lines(self) -> list[str]:
        """Return the report: one line per kind, most frequent first."""
        rows = self.counts.most_common()
        return [f"{count:>9,}  {ODDITIES[kind]} (e.g. {', '.join(self.examples[kind])})" for kind, count in rows]
