"""Progress where stderr is not a terminal: a plain line now and then, from items of any length."""

import io
import multiprocessing
import re
import sys
import threading
from types import SimpleNamespace

import pytest

from handdata import progress
from tests import ROOT


class Log(io.StringIO):
    """A log file in place of a terminal; `lines(n)` waits until n lines are in it."""

    def __init__(self) -> None:
        super().__init__()
        self._written = threading.Condition()

    def write(self, text: str) -> int:
        with self._written:
            written = super().write(text)
            self._written.notify_all()
            return written

    def lines(self, count: int) -> list[str]:
        with self._written:
            assert self._written.wait_for(lambda: self.getvalue().count("\n") >= count, timeout=20), self.getvalue()
        return self.getvalue().splitlines()


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    log = Log()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=log))  # pytest replaces the real one for each phase
    return log


def test_c9_one_item_that_takes_long_is_not_silent(log):
    for item in progress.bar(["slow"], desc="captions", unit="row"):
        first, second = log.lines(2)[:2]
        assert item == "slow" and first.startswith("captions: 0 of 1 rows, ") and second.startswith("captions: 0 of 1")


def test_c9_a_line_has_what_is_done_the_rate_the_time_left_and_the_remark(log):
    with progress.bar(total=8_000_000_000, initial=1_000_000_000, unit="B", unit_scale=True, desc="fetch") as shown:
        shown.update(3_000_000_000)
        shown.set_postfix(failed=2, refresh=False)
        line = log.lines(1)[0]
    assert re.fullmatch(r"fetch: 4\.00G of 8\.00G B, 00:0\d elapsed, [\d.]+G B/s, 00:0\d left, failed 2", line)


def test_c9_two_bars_at_once_share_a_thread_and_are_both_printed(log):
    with progress.bar(total=2, desc="outer"), progress.bar(total=3, desc="inner"):
        lines = log.lines(4)
        assert sum(thread.name == "progress" for thread in threading.enumerate()) == 1
    assert {line.partition(":")[0] for line in lines} == {"outer", "inner"}


def test_c9_nothing_is_printed_after_the_end_and_the_thread_ends(log):
    with progress.bar(total=1, desc="done") as shown:
        log.lines(1)
        shown.update()
    text = log.getvalue()
    assert text.splitlines()[-1].startswith("done: 1 of 1")
    for thread in threading.enumerate():
        if thread.name == "progress":
            thread.join(5)
            assert not thread.is_alive()
    assert log.getvalue() == text


def test_c9_work_that_ends_early_prints_nothing(log, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 30.0)
    assert list(progress.bar(range(1000), desc="quick")) == list(range(1000))
    with progress.bar(total=5) as shown:
        shown.update(5)
    assert not log.getvalue()


@pytest.mark.parametrize("silent", ["hidden", "worker"])
def test_c9_hidden_bars_and_worker_processes_print_nothing(log, monkeypatch, silent):
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object() if silent == "worker" else None)
    shown = progress.bar(range(3), show=silent == "worker", desc="x")
    assert not isinstance(shown, progress.Lines) and list(shown) == [0, 1, 2] and not log.getvalue()


def test_c9_a_terminal_gets_a_bar_as_before(log, monkeypatch):
    monkeypatch.setattr(log, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", log)  # tqdm's
    with progress.bar(total=4, desc="images", unit="image") as shown:
        shown.update(4)
    assert "images: 100%" in log.getvalue() and "4/4" in log.getvalue()


def test_c9_the_end_of_a_loop_by_an_exception_ends_its_bar(log):
    with pytest.raises(KeyError):
        for _ in progress.bar(range(3), desc="x"):
            raise KeyError
    assert not [thread for thread in threading.enumerate() if thread.name == "progress" and thread.join(5)]


def test_c9_only_one_module_imports_tqdm():
    users = [
        path.relative_to(ROOT).as_posix()
        for package in ("handdata", "handtrain")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(from|import) tqdm", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert users == ["handdata/progress.py"]
