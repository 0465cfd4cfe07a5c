"""Parts of a build: several processes, on any machines, that each do some shards of every stage.

A row depends on no row of another shard, so a part takes its shards through all stages and waits for no other part.
Only the choice of the images comes first: it is the same in every part.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from handdata.errors import UserError


@dataclass(frozen=True)
class Part:
    """The part `number` of `of` parts, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the part that a text such as `2/7` names. Raises `UserError`."""
        match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text, re.ASCII)
        if not match or int(match[1]) > int(match[2]):
            raise UserError(f"--part {text}: write i/N with i from 1 to N, such as 2/7")
        return cls(int(match[1]), int(match[2]))

    def holds(self, shard: int) -> bool:
        """Return whether a shard belongs to this part: every N-th one, so that all parts have equal work."""
        return shard % self.of == self.number - 1

    def shards(self, count: int) -> range:
        """Return the numbers of this part's shards of a build with that many."""
        return range(self.number - 1, count, self.of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parts_of(shards: Iterable[int], of: int) -> list[Part]:
    """Return the parts of `of` to which shards belong, in order."""
    return [Part(number + 1, of) for number in sorted({shard % of for shard in shards})]
