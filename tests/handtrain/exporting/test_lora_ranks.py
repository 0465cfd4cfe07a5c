"""The benchmark of LoRA ranks on a tiny run; the metric is a function of the model's name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import lora_ranks
from handdata.files import write_json
from handtrain.model.about import require_whole

ACCURACY = {"base": 0.2, "full": 0.8, "attention-1": 0.2, "attention-4": 0.35, "all-1": 0.5, "all-4": 0.8}


class _Scores:
    def __init__(self, images: Path) -> None:
        self.value = ACCURACY[images.name]

    def write(self, file: Path) -> None:
        entry = {"standard": {"fake": {"value": self.value}}}
        write_json(file, {"metrics": {lora_ranks.METRIC: entry}})


@pytest.mark.slow
def test_the_table_states_the_share_of_the_gain_for_every_rank(
    model: Path, base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_ranks, "evaluate", lambda **arguments: _Scores(arguments["fake"]))
    words = ["--model", str(model), "--base", str(base), "--dataset", str(dataset), "--split", "validation"]
    words += ["--out", str(tmp_path), "--ranks", "1", "4", "--seeds", "0", "--limit", "1", "--steps", "1"]
    given: Any = lora_ranks.flags().parse_args([*words, "--device", "cpu"])
    lines = lora_ranks.table(given).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    shares = {f"{row[0]}-{row[1]}": row[5] for row in cells[2:]}
    assert shares == {"attention-1": "0 %", "attention-4": "25 %", "all-1": "50 %", "all-4": "100 %"}
    kept = [float(row[3].removesuffix("%")) for row in cells[2:]]
    assert kept[0] < kept[1]
    assert kept[2] < kept[3]
    require_whole(tmp_path / "all-4", "MODEL")
    unet = "unet/diffusion_pytorch_model.safetensors"
    full, near, tuned = (load_file(folder / unet) for folder in (base, tmp_path / "all-4", model))
    layer = "mid_block.resnets.0.conv1.weight"
    assert torch.dist(near[layer], tuned[layer]) < torch.dist(full[layer], tuned[layer])
    pictures = sorted(path.parent.name for path in tmp_path.glob("images/*/*.png"))
    assert pictures == sorted(ACCURACY)
