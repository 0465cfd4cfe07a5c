"""Splits of photographs of which no persons are known: near-duplicates, such as bursts, stay together.

Pure functions. A group is a person where it is known, else photographs that look alike, directly or by way of others.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from handdata.rows.schema import SPLITS

# Near-duplicates by the bits of 64 in which hashes differ at most: the perceptual hash alone, or both. The difference
# hash alone also joins different persons in front of one wall. `assemble` refuses 4 bits or fewer across splits.
ALIKE, ALIKE_BOTH = 10, (16, 12)  # perceptual; perceptual and difference

_SHARE = 0.1  # of the photographs of a gesture for validation, and for test
_TEST, _TEST_FROM = 4, 20  # at least so many test photographs from so many on
_BLOCK = 2048  # rows compared at a time


def groups(ids: Sequence[str], subjects: Sequence[str], phashes: Sequence[str], dhashes: Sequence[str]) -> list[str]:
    """Return the name of each photograph's group: 16 hex digits, equal for photographs that must stay together.

    The name of a person's group, or of several persons who share a picture, depends on the persons' names alone.
    """
    parent = list(range(len(ids)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[str, int] = {}
    for number, subject in enumerate(subjects):
        if subject:
            parent[root(number)] = root(first.setdefault(subject, number))
    both = _alike(phashes, ALIKE_BOTH[0]) & _alike(dhashes, ALIKE_BOTH[1])
    for one, other in _alike(phashes, ALIKE) | both:
        parent[root(one)] = root(other)
    members: dict[int, list[int]] = defaultdict(list)
    for number in range(len(ids)):
        members[root(number)].append(number)
    names = [""] * len(ids)
    for of_group in members.values():
        people = sorted({subjects[number] for number in of_group} - {""})
        key = ["person", *people] if people else ["burst", min(ids[number] for number in of_group)]
        for number in of_group:
            names[number] = hashlib.sha256("\0".join(key).encode()).hexdigest()[:16]
    return names


def split(gestures: Sequence[str], groups: Sequence[str], seed: int) -> list[str]:
    """Return each photograph's split: a tenth of each gesture for validation and for test, the rest for training.

    From 20 photographs of a gesture on, at least 4 are for test. Groups are taken in the order of a hash of the seed
    and their names, and stay together; a group that is larger than what a split still needs is left to training,
    unless the test would lack too many.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for gesture, group in zip(gestures, groups, strict=True):
        counts[group][gesture] += 1
    totals = Counter(gestures)
    wanted = {
        "test": {g: max(_TEST if n >= _TEST_FROM else 0, round(_SHARE * n)) for g, n in totals.items()},
        "validation": {gesture: round(_SHARE * count) for gesture, count in totals.items()},
    }
    order = sorted(counts, key=lambda group: hashlib.sha256(f"photos:{seed}:{group}".encode()).digest())
    of_group = dict.fromkeys(order, "train")
    filled: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for name in ("test", "validation"):
        for group in order:
            fits = all(filled[name][g] + n <= wanted[name][g] for g, n in counts[group].items())
            if of_group[group] == "train" and fits:
                of_group[group] = name
                filled[name].update(counts[group])
    for gesture in sorted(totals):
        _complete(gesture, wanted["test"][gesture], order, counts, of_group)
    return [of_group[group] for group in groups]


def _complete(
    gesture: str, wanted: int, order: list[str], counts: dict[str, Counter[str]], of_group: dict[str, str]
) -> None:
    """Move the smallest groups of a gesture to the test until it has enough, as long as the training keeps more."""
    has: Counter[str] = Counter()
    for group, name in of_group.items():
        has[name] += counts[group][gesture]
    for group in sorted(order, key=lambda group: (of_group[group] == "train", counts[group][gesture])):
        if has["test"] >= wanted:
            return
        size, source = counts[group][gesture], of_group[group]
        if not size or source == "test":
            continue
        if source == "validation" or has["train"] - size > has["test"] + size:
            of_group[group] = "test"
            has[source] -= size
            has["test"] += size


def _alike(hashes: Sequence[str], bits: int) -> set[tuple[int, int]]:
    """Return the pairs of photographs whose 64-bit hashes differ in at most so many bits."""
    values = np.array([int(text or "0", 16) for text in hashes], np.uint64)
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(values), _BLOCK):
        distances = np.bitwise_count(values[start : start + _BLOCK, None] ^ values[None, :])
        for row, other in np.argwhere(distances <= bits).tolist():
            if start + row < other:
                pairs.add((start + row, other))
    return pairs
