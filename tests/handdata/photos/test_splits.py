"""Photographs that look alike, and those of one person, stay in one split."""

from collections import Counter

import pytest

from handdata.photos.splits import groups, split


def hashes(values):
    return [f"{value:016x}" for value in values]


def apart(count):
    """Return so many hashes that differ from each other in more than 16 bits."""
    return hashes([(number * 0x9E3779B97F4A7C15) % (1 << 64) for number in range(1, count + 1)])


def test_a_burst_is_one_group_also_where_its_ends_differ():
    frames = hashes([0, 0x3FF, 0xFFFFF, (1 << 64) - 1])  # 10 bits from one to the next, 20 between the ends
    names = groups(["c", "a", "b", "d"], [""] * 4, frames, apart(4))
    assert names[0] == names[1] == names[2] != names[3]


def test_a_difference_hash_alone_joins_nothing_and_both_hashes_do():
    perceptual, difference = hashes([0, 0xFFFF, 0x1FFFF << 20]), hashes([0, 0xFFF, 0])
    names = groups(["a", "b", "c"], [""] * 3, perceptual, difference)
    assert names[0] == names[1] != names[2]


def test_a_person_is_one_group_and_a_shared_picture_joins_two():
    names = groups(list("abcd"), ["ann", "ann", "bob", "eve"], apart(4), apart(4))
    assert names[0] == names[1] and len(set(names)) == 3
    joined = groups(list("abcd"), ["ann", "ann", "bob", "eve"], [*apart(2), apart(1)[0], apart(4)[3]], apart(4))
    assert joined[0] == joined[2] != joined[3]


def test_the_name_of_a_persons_group_does_not_depend_on_their_photographs():
    one = groups(["a", "b"], ["ann", ""], apart(2), apart(2))
    more = groups(["z", "a", "b"], ["ann", "ann", ""], apart(3), apart(3))
    assert more[0] == one[0]


@pytest.mark.parametrize(
    ("count", "test", "validation"), [(1, 0, 0), (5, 0, 0), (10, 1, 1), (20, 4, 2), (30, 4, 3), (100, 10, 10)]
)
def test_a_tenth_is_for_validation_and_test_and_at_least_4_of_20_for_test(count, test, validation):
    chosen = Counter(split(["vulcan"] * count, [f"{number}" for number in range(count)], 0))
    assert (chosen["test"], chosen["validation"], chosen["train"]) == (test, validation, count - test - validation)


def test_groups_never_cross_splits_and_large_ones_do_not_empty_the_test():
    of_rows = [f"burst {number // 6}" for number in range(36)]  # six of six: none fits into a test of four
    chosen = split(["vulcan"] * 36, of_rows, 0)
    assert all(len({chosen[n] for n in range(36) if of_rows[n] == group}) == 1 for group in set(of_rows))
    assert Counter(chosen)["test"] == 6 and Counter(chosen)["train"] >= 24


def test_one_group_alone_is_for_training():
    assert set(split(["vulcan"] * 30, ["burst"] * 30, 0)) == {"train"}


def test_every_gesture_has_its_share_and_the_seed_decides_which():
    gestures, names = ["vulcan"] * 30 + ["fist"] * 30, [str(number) for number in range(60)]
    chosen = split(gestures, names, 0)
    assert Counter(zip(gestures, chosen, strict=True))["fist", "test"] == 4
    assert chosen == split(gestures, names, 0) != split(gestures, names, 1)
