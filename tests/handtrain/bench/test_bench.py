import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import Unfinished, UserError
from handtrain.bench.bench import bench, measured, summary, table
from handtrain.bench.contenders import Contender, contenders, size_of
from handtrain.bench.turns import Job, Turn
from handtrain.cli.flags import Bench
from handtrain.run.flops import Work


@pytest.mark.slow
def test_bench_compares_presets_with_the_plain_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Bench(model="tiny", presets=("fast",), batch=(4,), steps=20, warmup=1, device="cpu",
                    json=tmp_path / "bench.json")  # fmt: skip
    assert command() == 0
    printed, figures = capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    assert printed.startswith("|  | Stage II images/s | MFU | peak MiB | first step | Stage III images/s |")
    assert "| preset fast, batch 4 |" in printed and "extrapolated" in printed
    assert list(figures["contenders"]) == [
        "plain loop, without checkpointing", "plain loop, with checkpointing", "preset fast", "preset fast, batch 4",
    ]  # fmt: skip
    images = {name: figures["contenders"][name]["stage3"]["timed_images"] for name in figures["contenders"]}
    assert list(images.values()) == [20, 20, 320, 80]
    assert all(entry["stage2"]["first_step_s"] > 0 for entry in figures["contenders"].values())


def test_numbers_out_of_range_are_one_sentence() -> None:
    with pytest.raises(UserError, match="--steps 30 must be a multiple of 20"):
        bench(steps=30)
    with pytest.raises(UserError, match="--batch 0 must be at least 1"):
        bench(batch=(8, 0))
    with pytest.raises(UserError, match="--compile maybe: choose of blocks, yes, cuda-graphs"):
        bench(compile=("maybe",))


def first(stage: int, seconds: float) -> Turn:
    return Turn(stage, 1, seconds, 0, first=True)


def test_one_gesture_is_ten_steps_of_stage_2_and_twenty_of_stage_3() -> None:
    turns = {
        "plain": [first(2, 9.0), Turn(2, 1, 1.0, 0), first(3, 8.0), Turn(3, 1, 2.0, 0)],
        "ours": [first(2, 9.0), Turn(2, 4, 1.0, 0), first(3, 70.0), Turn(3, 2, 2.0, 0)],
        "late": [first(2, 9.0), Turn(2, 4, 1.0, 0), first(3, 70.0)],
    }
    figures = summary(turns, Work(10, 20, 0), peak=100.0, images=100)
    assert figures["plain"]["gesture_seconds"] == 100 * (10 * 1.0 + 20 * 2.0)
    assert figures["ours"]["ratio"] == pytest.approx(5000 / (1000 / 4 + 2000))
    assert figures["ours"]["stage3"]["mfu"] == pytest.approx(1.0 * 20 / 100)
    assert figures["ours"]["stage3"]["first_step_s"] == 70.0
    assert figures["late"].keys() == {"stage2"}
    shown = {"parameters": 1, "device": "cpu", "threads": 1, "torch": "", "steps": 20, "images": 100}
    result = {**shown, "peak_flops": 1.0, "peak_source": "", "contenders": figures}
    (late,) = (line for line in table(result).splitlines() if line.startswith("| late"))
    assert late.endswith("|  |  |  |  | no time |  |")


def test_without_the_baseline_there_is_no_ratio() -> None:
    turns = [first(2, 5.0), Turn(2, 1, 1.0, 0), first(3, 5.0), Turn(3, 1, 1.0, 0)]
    figures = summary({"plain": [], "ours": turns}, Work(1, 1, 0), peak=1.0, images=1)
    assert figures["plain"] == {}
    assert "ratio" not in figures["ours"]
    assert figures["ours"]["gesture_seconds"] == 30


def _job() -> Job:
    return Job(Contender(), "tiny", "cpu", threads=1, rounds=1, warmup=1)


def _program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Let a script take the place of Python."""
    script = tmp_path / "program"
    script.write_text(f"#!{sys.executable}\n{text}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_contender_is_stopped_when_its_time_is_over_and_keeps_its_turns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = json.dumps(vars(Turn(2, 1, 0.5, 3.0)))
    _program(monkeypatch, tmp_path, f"import time\nprint('{line}', flush=True)\ntime.sleep(60)\n")
    begun = time.monotonic()
    assert measured(_job(), 3.0) in ([Turn(2, 1, 0.5, 3.0)], [])  # none on a machine too busy to start it
    assert time.monotonic() - begun < 30


def test_a_contender_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _program(monkeypatch, tmp_path, "raise SystemExit(7)\n")
    with pytest.raises(Unfinished, match="'plain loop, without checkpointing' ended with exit code 7"):
        measured(_job(), None)


def test_those_that_compile_come_last() -> None:
    names = [contender.name for contender in contenders(("fast",), (8,), ("yes",))]
    assert names[2:] == [
        "preset fast",
        "preset fast, batch 8",
        "preset fast, compiled",
        "preset fast, batch 8, compiled",
    ]


def test_the_models_have_their_known_numbers_of_weights() -> None:
    counts: dict[str, Any] = {name: size_of(name)[0] for name in ("sd14", "small")}
    assert counts == {"sd14": 859_520_964, "small": 5_057_532}
