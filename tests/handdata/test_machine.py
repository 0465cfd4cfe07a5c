"""Several processes: every result once, exceptions unchanged, a killed worker in one sentence."""

import os
import signal

import pytest

from handdata.errors import Unfinished
from handdata.machine import map_unordered


def square(number: int) -> int:
    return number * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_every_item_is_worked_on_once():
    assert sorted(map_unordered(square, range(20), 2, "squares")) == [n * n for n in range(20)]


def test_an_exception_of_a_worker_is_raised_unchanged():
    with pytest.raises(ValueError, match="three"):
        list(map_unordered(fail_at_three, range(20), 2, "numbers"))


def test_a_killed_worker_is_one_sentence_with_the_remedy():
    with pytest.raises(Unfinished, match=r"worker of 'numbers' was killed.* fewer --workers"):
        list(map_unordered(die_at_three, range(20), 2, "numbers"))
