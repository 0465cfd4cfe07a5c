"""A base with parts in half precision: the trained model has one number format and loads by every way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from handtrain import Hand1000Pipeline
from handtrain.training.train import train
from tests.handtrain.tiny import write_base, write_dataset

HALVES = {"text_encoder": torch.float16, "vae": torch.bfloat16}


def halve(base: Path, parts: dict[str, torch.dtype]) -> Path:
    """Store parts of a base in half precision, as published ones are."""
    for part, dtype in parts.items():
        for file in (base / part).glob("*.safetensors"):
            tensors = {
                name: tensor.to(dtype) if tensor.is_floating_point() else tensor
                for name, tensor in load_file(file).items()
            }
            save_file(tensors, file, {"format": "pt"})
        config = json.loads((base / part / "config.json").read_text())
        if "model_type" in config:  # a configuration of transformers, which names the format
            config["dtype"] = str(dtype).removeprefix("torch.")
        (base / part / "config.json").write_text(json.dumps(config))
    return base


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("halves")
    base = halve(write_base(root / "base", safety_checker=True), {**HALVES, "safety_checker": torch.float16})
    run = train(
        write_dataset(root / "hands", 2, 1), gesture="call", base=base, out=root / "run", preset="smoke",
        device="cpu", cache=root / "cache", tensorboard=False, sample_every=0, validate_every=0, progress=False,
    )  # fmt: skip
    return run.model


def test_e_dtype_of_every_exported_weight_is_float32(model: Path) -> None:
    files = sorted(model.glob("*/*.safetensors"))
    assert {file.parent.name for file in files} >= {"unet", "vae", "text_encoder", "safety_checker"}
    for file in files:
        kinds = {tensor.dtype for tensor in load_file(file).values() if tensor.is_floating_point()}
        assert kinds == {torch.float32}, file
    for config in model.glob("*/config.json"):
        assert "float16" not in config.read_text(), config


def _plain(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("load", [Hand1000Pipeline.from_pretrained, _plain], ids=["ours", "diffusers"])
def test_e_dtype_does_not_stop_a_pipeline_that_is_loaded_as_the_pages_show(
    model: Path, load: Callable[[Path], Any]
) -> None:
    pipeline = load(model)
    image = pipeline("a hand", num_inference_steps=1, height=16, width=16, output_type="np").images[0]
    assert image.shape == (16, 16, 3)


def test_e_dtype_of_an_older_export_is_made_one_when_it_is_loaded(model: Path, tmp_path: Path) -> None:
    older = halve(Path(shutil.copytree(model, tmp_path / "older")), HALVES)
    pipeline = Hand1000Pipeline.from_pretrained(older)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    pipeline("a hand", num_inference_steps=1, height=16, width=16, output_type="np")
