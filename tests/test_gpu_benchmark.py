"""`benchmarks/gpu.sh`: parts that are late or fail become rows with the reason, and all figures are in one table."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import Part
from handtrain.bench.bench import summary
from handtrain.bench.turns import Turn
from handtrain.run.flops import Work
from tests import ROOT


def part(code: str, **figures: Any) -> Part:
    return Part("run", [[sys.executable, "-c", code]], 1.0, lambda seconds: {"seconds": seconds, **figures})


def test_a_part_that_fails_or_is_late_has_a_reason() -> None:
    assert gpu.run(part("raise SystemExit(3)"), 60)["failed"].endswith("ended with exit code 3")
    assert gpu.run(part("import time; time.sleep(60)"), 0.5) == {"failed": "not finished after 0 s"}
    assert gpu.run(part("pass", images=4), 60)["images"] == 4


def test_the_bench_gets_the_minutes_that_are_left() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit(sys.argv[1] != '0.80')", "{minutes}"]
    assert gpu.run(Part("bench", [command], 1.0, lambda _: {"contenders": {}}), 60) == {"contenders": {}}


def test_no_part_is_begun_without_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "run", lambda part, seconds: pytest.fail("begun"))
    assert gpu.measure(tmp_path, 0.0, small=True) == 1
    assert "no time was left for it" in (tmp_path / "gpu.md").read_text()


def test_the_table_has_all_figures() -> None:
    turns = [Turn(stage, 1, 1.0, 0, first) for stage in (2, 3) for first in (True, False)]
    shown = {"parameters": 1, "device": "cpu", "threads": 1, "torch": "2", "steps": 20, "images": 100}
    bench = {
        **shown,
        "peak_flops": 1.0,
        "peak_source": "",
        "contenders": summary({"fast": turns}, Work(1, 1, 0), 1.0, 9),
    }
    done: dict[str, dict[str, Any]] = {
        "ceilings": {"bf16_tflops": 784.0, "copy_tb_per_s": 3.0},
        "run": {"seconds": 160.0, "phases": {"export": {"seconds": 4.0, "read": 0, "written": 2**32}}},
        "generation": {"seconds": 50.0, "images": 32, "session_seconds": 16.0},
        "card of 12 GiB": {"changes": {"micro_batch": 4}, "predicted_gib": 10.5, "peak_gib": 9.75},
        "bench": bench,
    }
    text = gpu.table({"device": "H100", "version": "1", "torch": "2", "diffusers": "0"}, done)
    for cell in ("784 TFLOP/s", "160.0 s", "2.00 images/s", "| run, export | 4.0 s, 100%, 4,096 MiB |", "| fast |",
                 "| card of 12 GiB, --fit | micro_batch 4: peak 9.75 GiB, predicted 10.5 |"):  # fmt: skip
        assert cell in text, cell


def test_the_ceilings_are_measured() -> None:
    figures = gpu.ceilings(64)
    assert all(value > 0 for value in figures.values())


@pytest.mark.slow
def test_a_smaller_card_is_tried(tmp_path: Path) -> None:
    gpu.write_base(tmp_path, small=True)
    figures = gpu.fitted(tmp_path, 12)
    assert figures["changes"] == {} and 0 < figures["predicted_gib"] < 2 and figures["peak_gib"] > 0
    assert not (tmp_path / "card-12").exists()


def test_the_commands_exist(tmp_path: Path) -> None:
    commands = [command for part in gpu.parts(tmp_path, small=True) for command in part.commands]
    assert [command[2:4] for command in commands if command[2] == "handtrain"] == [
        ["handtrain", "train"], ["handtrain", "generate"], ["handtrain", "bench"],
    ]  # fmt: skip
    assert (ROOT / "benchmarks" / "gpu.sh").stat().st_mode & 0o100
