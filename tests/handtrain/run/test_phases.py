"""The times of phases are exclusive and add up; their bytes are those that the thread moved."""

import sys
import time
from pathlib import Path

import pytest

from handtrain.run import phases
from handtrain.run.phases import Phases


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(phases, "_reading", lambda: phases._Reading(self.now, 0, 0))


def seconds(timer: Phases) -> dict[str, float]:
    return {name: entry["seconds"] for name, entry in timer.record().items()}


def test_inner_phases_are_not_counted_in_the_outer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timer = Phases(started=90.0)
    clock.now = 101.0
    timer.begin("Stage III")
    clock.now = 103.0
    with pytest.raises(ValueError, match="disk"), timer.inside("checkpoints"):
        clock.now = 107.0
        with timer.inside("samples"):
            clock.now = 108.0
        raise ValueError("disk")
    clock.now = 110.0
    timer.begin("export")
    timer.begin("Stage III")
    clock.now = 111.0
    assert seconds(timer) == {"start": 11.0, "Stage III": 5.0, "checkpoints": 4.0, "samples": 1.0, "export": 0.0}
    assert sum(seconds(timer).values()) == 111.0 - 90.0


def test_work_of_another_thread_is_added_to_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    timer = Phases()
    timer.add("load", seconds=2.0, read=7)
    timer.add("load", read=3)
    assert timer.record()["load"] == {"seconds": 2.0, "read": 10, "written": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="bytes are counted by Linux")
def test_bytes_are_those_of_the_phase(tmp_path: Path) -> None:
    timer = Phases()
    with timer.inside("checkpoints"):
        (tmp_path / "piece").write_bytes(b"x" * 3_000_000)
    with timer.inside("hash"):
        (tmp_path / "piece").read_bytes()
    record = timer.record()
    assert 3_000_000 <= record["checkpoints"]["written"] < 3_010_000
    assert 3_000_000 <= record["hash"]["read"] < 3_020_000
    assert record["hash"]["written"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the start of a process is read from /proc")
def test_the_program_began_before_this_test() -> None:
    age = time.monotonic() - phases.program_start()
    assert time.process_time() * 0.2 < age < 86_400


def test_a_table_has_a_row_per_phase_and_the_sum() -> None:
    record = {
        "start": {"seconds": 1.0, "read": 0, "written": 0},
        "export": {"seconds": 3.0, "read": 0, "written": 4 * 2**30},
    }
    assert [line.split("  ")[-1].strip() for line in phases.table(record).splitlines()[1:]] == [
        "", "4,096 MiB", "4,096 MiB",
    ]  # fmt: skip
    assert phases.rows(record)[1] == ("export", "3.0 s", "75%", "", "4,096 MiB")
    assert phases.rows(record)[2][:3] == ("together", "4.0 s", "100%")


@pytest.mark.parametrize("value", [None, [], {"start": 3}, {"start": {"seconds": "1", "read": 0, "written": 0}}])
def test_damaged_records_are_recognized(value: object) -> None:
    assert not phases.is_record(value)
