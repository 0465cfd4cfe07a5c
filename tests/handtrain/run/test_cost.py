from pathlib import Path

from handtrain.data.dataset import load
from handtrain.model.base import open_base
from handtrain.presets import TrainOptions
from handtrain.run.cost import plan
from handtrain.training.train import plan_run


def test_a_plan_names_memory_disk_and_time(base: Path, dataset: Path) -> None:
    text = plan_run(dataset, gesture="call", base=base, preset="fast", device="cpu")
    assert "of activations for 16 images at once" in text
    assert "disk:" in text
    assert "PFLOP, if 30% of the peak of cpu" in text


def test_adapters_need_less_memory_and_disk_than_all_weights(base: Path, dataset: Path) -> None:
    photographs, opened = load(dataset, "call"), open_base(base)
    whole, adapters = (plan("call", photographs.rows, opened, TrainOptions(lora_rank=rank)) for rank in (0, 2))
    assert whole.training_bytes == 4 * 4 * whole.parameters  # weights, gradients and two moments in float32
    half = plan("call", photographs.rows, opened, TrainOptions(precision="bf16"))
    assert half.training_bytes == (4 * 4 + 2 * 2) * whole.parameters  # and a copy with its gradients in bfloat16
    assert whole.parameters * 4 < adapters.training_bytes < whole.training_bytes
    assert adapters.disk_bytes < whole.disk_bytes
