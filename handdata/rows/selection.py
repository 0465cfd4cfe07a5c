"""The choice of images per gesture and split, by a hash of (seed, image id), with subjects disjoint between splits.

The order in which a group's images are taken depends only on the seed and their ids. Therefore the choice does not
depend on the order of the annotations, and a larger count keeps the earlier choice.
"""

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from handdata.recipe import SelectOptions
from handdata.rows.oddities import Oddities
from handdata.rows.schema import HAGRID_SPLITS, SPLITS

VALIDATION_SHARE = 0.05  # share of the train subjects that validate where the annotations have no val split


@dataclass
class Choice:
    """The chosen rows: indices into the annotations table in manifest order, and their columns of the manifest."""

    rows: np.ndarray  # (n,) int64
    splits: list[str]
    ranks: np.ndarray  # (n,) int32, place within gesture and split
    spares: np.ndarray  # (n,) bool
    shortfalls: dict[tuple[str, str], int]  # number of missing images by (gesture, split)
    not_taken: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)  # of these: images by reason


def choose(table: pa.Table, available: np.ndarray, options: SelectOptions, odd: Oddities) -> Choice:
    """Choose rows of an annotations table.

    `available` (rows,) bool is True for images that are in the archive and not dropped. The chosen rows are ordered by
    rank, then gesture (in the options' order) and split: a larger count appends rows and so leaves finished shards
    unchanged, as far as the counts of the splits allow it.
    """
    unique = available & ~_repeated(table, available, odd)
    splits = _splits(table, unique, options, odd)
    usable = unique & (splits >= 0)
    for removed in _filtered(table, options).values():
        usable &= ~removed
    order = _hashes(table["image_id"], options.seed)
    subjects = _codes(table["subject"])
    gesture_names = table["gesture"].to_numpy(zero_copy_only=False)
    chosen, shortfalls, not_taken = [], {}, {}
    reasons = {"not-in-archive": ~available, "repeated-image": available & ~unique}
    reasons |= {"subject-in-splits": unique & (splits < 0), **_filtered(table, options)}
    hagrid = table["hagrid_split"].to_numpy(zero_copy_only=False)
    for gesture_index, gesture in enumerate(options.gestures):
        of_gesture = usable & (gesture_names == gesture)
        for split_index, split in enumerate(SPLITS):
            count = getattr(options, split)
            group = np.flatnonzero(of_gesture & (splits == split_index))
            candidates = len(group)
            group = _capped(group[np.argsort(order[group], kind="stable")], subjects, options.max_per_subject)
            if len(group) < count:
                shortfalls[gesture, split] = count - len(group)
                of_split = (splits == split_index) | ((splits < 0) & (hagrid == HAGRID_SPLITS[split]))
                counts = _first_reasons((gesture_names == gesture) & of_split, reasons)
                counts["max_per_subject"] = candidates - len(group)
                not_taken[gesture, split] = {reason: number for reason, number in counts.items() if number}
            for rank, row in enumerate(group[: with_spares(count, options.spare)]):
                chosen.append((rank, gesture_index, split_index, row, rank >= count))
    chosen.sort()
    ranks, _, split_indices, rows, spares = zip(*chosen, strict=True) if chosen else [()] * 5
    return Choice(
        rows=np.array(rows, dtype=np.int64),
        splits=[SPLITS[index] for index in split_indices],
        ranks=np.array(ranks, dtype=np.int32),
        spares=np.array(spares, dtype=bool),
        shortfalls=shortfalls,
        not_taken=not_taken,
    )


def with_spares(count: int, spare: float) -> int:
    """Return the number of images to select for `count` rows, spares included."""
    return count + math.ceil(count * spare)


def _hashes(values: pa.ChunkedArray, seed: int, purpose: str = "image") -> np.ndarray:
    """Return a number in [0, 2^64) for each value, a function of seed, purpose and value."""
    head = f"{purpose}:{seed}:".encode()
    digests = b"".join(hashlib.sha256(head + value.encode()).digest()[:8] for value in values.to_pylist())
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    codes: np.ndarray = values.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes


def _repeated(table: pa.Table, available: np.ndarray, odd: Oddities) -> np.ndarray:
    """Return a mask of the rows that annotate an image again: all but the alphabetically first gesture, then split."""
    ids = _codes(table["image_id"])
    rank = [np.unique(table[name].to_numpy(), return_inverse=True)[1] for name in ("gesture", "hagrid_split")]
    order = np.lexsort((*reversed(rank), ~available, ids))
    again = np.zeros(len(ids), dtype=bool)
    again[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    again &= available
    _report("repeated-image", again, table, odd)
    return again


def _splits(table: pa.Table, usable: np.ndarray, options: SelectOptions, odd: Oddities) -> np.ndarray:
    """Return each row's split as an index into SPLITS, -1 where its subject belongs to another split."""
    names = table["hagrid_split"].to_numpy(zero_copy_only=False)
    splits = np.zeros(len(names), dtype=np.int8)
    for index, name in enumerate(HAGRID_SPLITS.values()):
        splits[names == name] = index
    subjects = _codes(table["subject"])
    belongs = np.full(int(subjects.max(initial=-1)) + 1, -1, dtype=np.int8)
    for index in (0, 1, 2):  # a later split takes its subjects from an earlier one
        belongs[subjects[usable & (splits == index)]] = index
    elsewhere = usable & (belongs[subjects] != splits)
    _report("subject-in-splits", elsewhere, table, odd)
    splits = np.where(elsewhere, np.int8(-1), splits)
    if options.validation and not (splits == 1).any():
        validating = _hashes(table["subject"], options.seed, "validation") < np.uint64(VALIDATION_SHARE * 2**64)
        splits = np.where((splits == 0) & validating, np.int8(1), splits)
    return splits


def _report(kind: str, rows: np.ndarray, table: pa.Table, odd: Oddities) -> None:
    first = [table["image_id"][row].as_py() for row in np.flatnonzero(rows)[:3].tolist()]
    odd.add_many(kind, first, int(rows.sum()))


def _filtered(table: pa.Table, options: SelectOptions) -> dict[str, np.ndarray]:
    """Return a mask of the rows that each filter of the options removes, by its key."""
    removed: dict[str, np.ndarray] = {"min_hand": ~(table["gesture_area"].to_numpy() >= options.min_hand)}
    if options.single_hand:
        removed["single_hand"] = table["other_hands"].to_numpy() > 0
    return removed


def _first_reasons(rows: np.ndarray, reasons: dict[str, np.ndarray]) -> dict[str, int]:
    """Return how many rows (n,) bool are removed by each reason; a row counts for the first of its reasons."""
    left, counts = rows.copy(), {}
    for name, removed in reasons.items():
        counts[name] = int((left & removed).sum())
        left &= ~removed
    return counts


def _capped(group: np.ndarray, subjects: np.ndarray, cap: int) -> np.ndarray:
    """Return the first `cap` rows of each subject, in the group's order; all rows with a cap of 0."""
    if not cap or not len(group):
        return group
    order = np.argsort(subjects[group], kind="stable")
    person = subjects[group][order]
    first = np.searchsorted(person, person, side="left")
    seen = np.empty(len(group), dtype=np.int64)
    seen[order] = np.arange(len(group)) - first  # number of earlier rows of the same subject
    return group[seen < cap]
