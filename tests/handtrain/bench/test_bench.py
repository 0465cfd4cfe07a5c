import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handdata.errors import UserError
from handtrain.bench.bench import Turn, bench, summary
from handtrain.bench.contenders import MODELS
from handtrain.cli.flags import Bench
from handtrain.run.flops import Work


@pytest.mark.slow
def test_bench_compares_presets_with_the_plain_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Bench(model="tiny", presets=("fast",), steps=20, warmup=1, device="cpu", json=tmp_path / "bench.json")
    assert command() == 0
    printed, figures = capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    assert printed.startswith("|  | Stage II images/s | MFU | peak MiB | Stage III images/s |")
    assert "| preset fast |" in printed and "extrapolated" in printed
    assert list(figures["contenders"]) == [
        "plain loop, without checkpointing", "plain loop, with checkpointing", "preset fast",
    ]  # fmt: skip
    fast = figures["contenders"]["preset fast"]
    assert (fast["stage2"]["timed_images"], fast["stage3"]["timed_images"]) == (320, 320)
    assert figures["contenders"]["plain loop, with checkpointing"]["stage3"]["timed_images"] == 20


def test_steps_that_do_not_fill_turns_are_one_sentence() -> None:
    with pytest.raises(UserError, match="--steps 30 must be a multiple of 20"):
        bench(steps=30)


def test_one_gesture_is_ten_steps_of_stage_2_and_twenty_of_stage_3() -> None:
    turns = {
        "plain": {2: [Turn(1, 1.0, 0)], 3: [Turn(1, 2.0, 0)]},
        "ours": {2: [Turn(4, 1.0, 0)], 3: [Turn(2, 2.0, 0)]},
    }
    figures = summary(turns, Work(10, 20, 0), peak=100.0, images=100)
    assert figures["plain"]["gesture_seconds"] == 100 * (10 * 1.0 + 20 * 2.0)
    assert figures["ours"]["ratio"] == pytest.approx(5000 / (1000 / 4 + 2000))
    assert figures["ours"]["stage3"]["mfu"] == pytest.approx(1.0 * 20 / 100)


def test_the_models_have_their_known_numbers_of_weights() -> None:
    from diffusers import UNet2DConditionModel

    counts = {}
    for name in ("sd14", "small"):
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel(**MODELS[name])
        counts[name] = sum(parameter.numel() for parameter in unet.parameters())
    assert counts == {"sd14": 859_520_964, "small": 5_057_532}
