"""The choice of rows to publish: the requested counts, spares in place of failed rows, disjoint splits."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handdata.rows.schema import SPLITS

_BLOCK = 1 << 22  # pairs compared at a time: 32 MiB


@dataclass
class Choice:
    """The published rows, and why others are not: row numbers by (gesture, split), in the order of image ids."""

    gestures: tuple[str, ...]
    rows: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    requested: dict[tuple[str, str], int] = field(default_factory=dict)
    left_out: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)  # counts by reason, spares included
    spares_used: dict[tuple[str, str], int] = field(default_factory=dict)
    closest: int | None = None  # fewest bits in which the hashes of two published images of different splits differ

    @property
    def shortfalls(self) -> list[tuple[str, str, int, int]]:
        """Return (gesture, split, requested, available) where fewer rows are available than requested."""
        counts = [(*key, count, len(self.rows[key])) for key, count in self.requested.items()]
        return [entry for entry in counts if entry[3] < entry[2]]


def choose(rows: pa.Table, gestures: tuple[str, ...], counts: dict[str, int], near: int) -> Choice:
    """Choose rows per gesture and split.

    `rows` has the columns gesture, split, spare, rank, subject, phash, image_id and `why` (None: can be published).
    `counts` are rows per gesture by split. Test is filled first, then validation, then train: a row that shares its
    subject with a row of an earlier one, or differs from it in at most `near` bits, is replaced by a spare.
    """
    choice = Choice(gestures)
    hashes = np.array([int(value or "0", 16) for value in rows["phash"].to_pylist()], dtype=np.uint64)
    why, subjects = rows["why"].to_pylist(), rows["subject"].to_pylist()
    row_splits, row_gestures, spare = (np.array(rows[name].to_pylist()) for name in ("split", "gesture", "spare"))
    order = pc.sort_indices(rows, [("spare", "ascending"), ("rank", "ascending"), ("image_id", "ascending")]).to_numpy()
    taken: list[int] = []
    for split in reversed(SPLITS):
        of_split = order[row_splits[order] == split]
        _refuse_shared(of_split, taken, why, subjects, hashes, near)
        for gesture in gestures:
            candidates = of_split[row_gestures[of_split] == gesture]
            good = [int(row) for row in candidates if why[row] is None][: counts[split]]
            key = (gesture, split)
            choice.rows[key] = sorted(good, key=lambda row: rows["image_id"][row].as_py())
            choice.requested[key] = counts[split]
            choice.left_out[key] = Counter(reason for row in candidates if (reason := why[row]) is not None)
            choice.spares_used[key] = int(spare[good].sum())
        taken += [row for gesture in gestures for row in choice.rows[gesture, split]]
    choice.closest = _prove_disjoint(choice, subjects, hashes, near)
    return choice


def nearest(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return each 64-bit hash's distance in bits to the most similar of the others, (n,) uint8; 65 without others."""
    least = np.full(len(hashes), 65, dtype=np.uint8)
    step = max(1, _BLOCK // max(1, len(others)))
    for start in range(0, len(hashes) if len(others) else 0, step):
        block = hashes[start : start + step, None] ^ others[None, :]
        least[start : start + step] = np.bitwise_count(block).min(axis=1)
    return least


def _refuse_shared(
    rows: np.ndarray, taken: list[int], why: list[str | None], subjects: list[str], hashes: np.ndarray, near: int
) -> None:
    """Give a reason to every row of a split that shares its person or its picture with a split that was filled."""
    persons = {subjects[row] for row in taken}
    distances = nearest(hashes[rows], hashes[taken])
    for row, distance in zip(rows.tolist(), distances.tolist(), strict=True):
        if why[row] is None and subjects[row] in persons:
            why[row] = "subject-in-other-split"
        elif why[row] is None and distance <= near:
            why[row] = "duplicate-in-other-split"


def _prove_disjoint(choice: Choice, subjects: list[str], hashes: np.ndarray, near: int) -> int | None:
    """Check the finished choice independently; return the smallest distance between the splits' hashes."""
    by_split = {name: [row for key, rows in choice.rows.items() if key[1] == name for row in rows] for name in SPLITS}
    closest = 65
    for index, split in enumerate(SPLITS):
        for other in SPLITS[index + 1 :]:
            shared = {subjects[row] for row in by_split[split]} & {subjects[row] for row in by_split[other]}
            assert not shared, f"subjects in {split} and in {other}: {sorted(shared)[:3]}"
            distances = nearest(hashes[by_split[split]], hashes[by_split[other]])
            closest = min(closest, int(distances.min(initial=65)))
    assert closest > near, f"images of different splits differ in {closest} bits only"
    return None if closest == 65 else closest
