"""Several processes: every result once, exceptions unchanged, a killed worker in one sentence."""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess

import pytest

from handdata import machine
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


def test_a_signal_while_the_pool_ends_kills_workers_that_are_still_starting(monkeypatch):
    """Else they outlive the pool's semaphores, and each prints a traceback."""
    end, kill, ended, killed = ProcessPoolExecutor.shutdown, BaseProcess.kill, [], []

    def interrupted(self, *arguments, **named):
        ended.append(1)
        if len(ended) == 1:
            raise KeyboardInterrupt
        end(self, *arguments, **named)

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", interrupted)
    monkeypatch.setattr(BaseProcess, "kill", lambda child: (killed.append(child), kill(child)))
    with pytest.raises(KeyboardInterrupt):
        list(map_unordered(square, range(4), 2, "squares"))
    assert killed and not any(child.is_alive() for child in killed)


@pytest.mark.parametrize("signum", machine.STOP_SIGNALS)
def test_a_stop_signal_that_another_thread_takes_waits_until_the_workers_are_started(signum):
    """Else the start of a process is left half done, and the child prints a traceback."""
    began, taken, steps = threading.Event(), threading.Event(), []

    def take():  # in a thread that does not block the signal
        began.wait()
        signal.pthread_kill(threading.get_ident(), signum)
        taken.set()

    def stop(*_):
        raise KeyboardInterrupt

    other = threading.Thread(target=take)
    other.start()
    before = signal.signal(signum, stop)
    try:
        with pytest.raises(KeyboardInterrupt), machine._blocked_signals():
            began.set()
            taken.wait()
            steps.extend(range(1000))  # bytecode, between which handlers run
        assert len(steps) == 1000 and signal.getsignal(signum) is stop
    finally:
        signal.signal(signum, before)
        other.join()


def test_a_handler_that_native_code_replaced_is_set_again_after_the_block(monkeypatch):
    """Python does not know of it: `getsignal` still returns its own."""
    import ctypes

    received = []
    monkeypatch.setattr(machine, "STOP_SIGNALS", (signal.SIGUSR1,))
    before = signal.signal(signal.SIGUSR1, lambda signum, _: received.append(signum))
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    try:
        with machine.same_signal_handlers():
            library.signal(signal.SIGUSR1, 1)  # SIG_IGN
            signal.raise_signal(signal.SIGUSR1)
            assert received == []
        signal.raise_signal(signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_library_does_not_replace_the_handlers_of_stop_signals_inside_the_block():
    before, other = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    try:
        with pytest.raises(ValueError, match="the library"), machine.same_signal_handlers():
            for signum in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(signum, signal.SIG_IGN)
            assert signal.getsignal(signal.SIGTERM) == before and signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
            raise ValueError("the library")
        assert signal.signal(signal.SIGTERM, signal.SIG_IGN) == before
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGUSR1, other)
