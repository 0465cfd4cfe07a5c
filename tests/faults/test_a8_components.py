import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import UserError
from handtrain.model.base import open_base, report_left_out
from handtrain.model.export import export
from tests.handtrain.tiny import write_base


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("guarded") / "base", safety_checker=True)


def _only_pickled(folder: Path) -> None:
    (folder / "safety_checker" / "model.safetensors").rename(folder / "safety_checker" / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    file = folder / "safety_checker" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def _not_numbers(folder: Path) -> None:
    file = folder / "safety_checker" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8] + b"\xff" * 8)


def _other_sizes(folder: Path) -> None:
    file = folder / "safety_checker" / "config.json"
    config = json.loads(file.read_text())
    config["projection_dim"] = 16
    file.write_text(json.dumps(config))


def _other_images(folder: Path) -> None:
    file = folder / "feature_extractor" / "preprocessor_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "crop_size": {"height": 24, "width": 24}}))


def _no_extractor(folder: Path) -> None:
    shutil.rmtree(folder / "feature_extractor")


def _odd_class(folder: Path) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "safety_checker": ["os", "system"]}))


@pytest.mark.parametrize(
    "damage",
    [
        _only_pickled,
        _other_sizes,
        shutil.rmtree,
        *(pytest.param(damage, marks=pytest.mark.slow) for damage in (_cut, _not_numbers, _other_images)),
        *(pytest.param(damage, marks=pytest.mark.slow) for damage in (_no_extractor, _odd_class)),
    ],
)
def test_a8_a_safety_checker_that_cannot_be_used_is_left_out_before_training(
    guarded: Path, tmp_path: Path, damage: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import StableDiffusionPipeline

    folder = Path(shutil.copytree(guarded, tmp_path / "base"))
    damage(folder / "safety_checker" if damage is shutil.rmtree else folder)
    base = open_base(folder)
    assert list(base.left_out) == ["safety_checker"]
    report_left_out(base, True)
    assert capsys.readouterr().err.count("without the safety_checker of its base") == 1
    export(tmp_path / "model", base, base.denoiser(), _about(), None, safety_checker=True)
    assert not (tmp_path / "model" / "safety_checker").exists()
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "model").safety_checker is None


def test_a8_an_image_encoder_is_left_out_and_named(guarded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(guarded, tmp_path / "base"))
    index = json.loads((folder / "model_index.json").read_text())
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
    (folder / "model_index.json").write_text(json.dumps(index))
    base = open_base(folder)
    assert list(base.left_out) == ["image_encoder"]
    assert base.safety_checker() is not None


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_a8_a_required_component_that_is_only_pickled_is_one_sentence(guarded: Path, tmp_path: Path, part: str) -> None:
    folder = Path(shutil.copytree(guarded, tmp_path / "base"))
    file = next((folder / part).glob("*.safetensors"))
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(UserError, match=f"{part}: it has no .*pickled weights"):
        open_base(folder)


def test_a8_a_half_precision_base_is_exported_in_one_type(guarded: Path, tmp_path: Path) -> None:
    """Copies named .fp16 alone, of all networks: the model has float32 files of the usual names, which all load."""
    import torch
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(guarded, tmp_path / "base"))
    for file in [*folder.glob("*/*.safetensors")]:
        half = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(file).items()
        }
        save_file(half, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        file.unlink()
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    base = open_base(folder)
    assert base.left_out == {}
    export(tmp_path / "model", base, base.denoiser(), _about(), None, safety_checker=True)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    networks = (loaded.unet, loaded.vae, loaded.text_encoder, loaded.safety_checker)
    assert {parameter.dtype for network in networks for parameter in network.parameters()} == {torch.float32}
    assert loaded("a hand", num_inference_steps=1, output_type="np").images.shape == (1, 16, 16, 3)


def _about() -> dict[str, Any]:
    return {
        "gesture": "call",
        "gesture_phrase": "making phone call hand gesture",
        "feature": {"kind": "absolute", "values": [0.0] * 63},
        "fusion": {"kind": "none"},
        "lam": 1.0,
        "crop": "center",
        "resolution": 16,
        "seed": 0,
        "training": {"imported": "last.ckpt"},
    }
