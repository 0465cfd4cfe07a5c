"""Choose images: per gesture and split, by a hash of (seed, image id), subjects disjoint between the splits.

The order in which a group's images are taken depends on nothing but the seed and their ids. So the choice is the same
whatever the order of the annotations, and a larger count keeps the earlier choice.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from handdata.recipe import SelectOptions
from handdata.rows.oddities import Oddities
from handdata.rows.schema import SPLITS

VALIDATION_SHARE = 0.05  # of the train subjects, where HaGRID has no val split

_OURS = {"train": "train", "val": "validation", "test": "test"}


@dataclass
class Choice:
    """The chosen rows: indices into the table, in manifest order, and what a manifest says of them."""

    rows: np.ndarray  # (n,) int64
    splits: list[str]
    ranks: np.ndarray  # (n,) int32, place within gesture and split
    spares: np.ndarray  # (n,) bool
    shortfalls: dict[tuple[str, str], int]  # (gesture, split): images lacking


def choose(table: pa.Table, available: np.ndarray, options: SelectOptions, odd: Oddities) -> Choice:
    """Choose rows of an annotations table.

    `available` (rows,) bool: may be taken (present in the archive, not dropped). The rows of the choice are ordered by
    rank, then gesture (the options' order) and split: a larger count appends rows and so leaves finished shards as they
    are wherever the counts of the splits allow it.
    """
    unique = available & ~_repeated(table, available, odd)
    splits = _splits(table, unique, options, odd)
    usable = unique & (splits >= 0) & _filter(table, options)
    order = _hashes(table["image_id"], options.seed)
    subjects = _codes(table["subject"])
    gesture_names = table["gesture"].to_numpy(zero_copy_only=False)
    chosen, shortfalls = [], {}
    for gesture_index, gesture in enumerate(options.gestures):
        of_gesture = usable & (gesture_names == gesture)
        for split_index, split in enumerate(SPLITS):
            count = getattr(options, split)
            group = np.flatnonzero(of_gesture & (splits == split_index))
            group = _capped(group[np.argsort(order[group], kind="stable")], subjects, options.max_per_subject)
            if len(group) < count:
                shortfalls[gesture, split] = count - len(group)
            for rank, row in enumerate(group[: with_spares(count, options.spare)]):
                chosen.append((rank, gesture_index, split_index, row, rank >= count))
    chosen.sort(key=lambda one: one[:3])
    return Choice(
        rows=np.array([one[3] for one in chosen], dtype=np.int64),
        splits=[SPLITS[one[2]] for one in chosen],
        ranks=np.array([one[0] for one in chosen], dtype=np.int32),
        spares=np.array([one[4] for one in chosen], dtype=bool),
        shortfalls=shortfalls,
    )


def with_spares(count: int, spare: float) -> int:
    """Return how many images are selected where `count` are asked for."""
    return count + math.ceil(count * spare)


def _hashes(values: pa.ChunkedArray, seed: int, purpose: str = "image") -> np.ndarray:
    """Return a number in 0..2^64 for each value, which depends on the seed, the purpose and the value alone."""
    head = f"{purpose}:{seed}:".encode()
    digests = b"".join(hashlib.sha256(head + value.encode()).digest()[:8] for value in values.to_pylist())
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    codes: np.ndarray = values.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes


def _repeated(table: pa.Table, available: np.ndarray, odd: Oddities) -> np.ndarray:
    """Tell which rows annotate an image again: all but that of the alphabetically first gesture, then split."""
    ids = _codes(table["image_id"])
    rank = [np.unique(table[name].to_numpy(), return_inverse=True)[1] for name in ("gesture", "hagrid_split")]
    order = np.lexsort((*reversed(rank), ~available, ids))
    again = np.zeros(len(ids), dtype=bool)
    again[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    again &= available
    _report("repeated-image", again, table, odd)
    return again


def _splits(table: pa.Table, usable: np.ndarray, options: SelectOptions, odd: Oddities) -> np.ndarray:
    """Return each row's split as an index into SPLITS, -1 where its person already belongs to another split."""
    names = table["hagrid_split"].to_numpy(zero_copy_only=False)
    splits = _split_codes(names)
    subjects = _codes(table["subject"])
    belongs = np.full(int(subjects.max(initial=-1)) + 1, -1, dtype=np.int8)
    for index in (0, 1, 2):  # a later split claims its persons from an earlier one
        belongs[subjects[usable & (splits == index)]] = index
    elsewhere = usable & (belongs[subjects] != splits)
    _report("subject-in-splits", elsewhere, table, odd)
    splits = np.where(elsewhere, np.int8(-1), splits)
    if options.validation and not (splits == 1).any():
        persons = _hashes(table["subject"], options.seed, "validation")
        taken = persons < np.uint64(VALIDATION_SHARE * 2**64)
        splits = np.where((splits == 0) & taken, np.int8(1), splits)
    return splits


def _split_codes(names: np.ndarray) -> np.ndarray:
    codes = np.zeros(len(names), dtype=np.int8)
    for theirs, ours in _OURS.items():
        codes[names == theirs] = SPLITS.index(ours)
    return codes


def _report(kind: str, rows: np.ndarray, table: pa.Table, odd: Oddities) -> None:
    first = [table["image_id"][row].as_py() for row in np.flatnonzero(rows)[:3].tolist()]
    odd.add_many(kind, first, int(rows.sum()))


def _filter(table: pa.Table, options: SelectOptions) -> np.ndarray:
    keep: np.ndarray = table["gesture_area"].to_numpy() >= options.min_hand
    if options.single_hand:
        keep &= table["other_hands"].to_numpy() == 0
    return keep


def _capped(group: np.ndarray, subjects: np.ndarray, cap: int) -> np.ndarray:
    """Keep the first `cap` rows of each person, in the group's order; all with a cap of 0."""
    if not cap or not len(group):
        return group
    order = np.argsort(subjects[group], kind="stable")
    person = subjects[group][order]
    first = np.searchsorted(person, person, side="left")
    seen = np.empty(len(group), dtype=np.int64)
    seen[order] = np.arange(len(group)) - first  # how many of the same person stand before
    return group[seen < cap]
