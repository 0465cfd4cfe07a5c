"""Stable Diffusion XL in other formats: one file with the original names, and LoRA files of both kinds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file

from handdata.shipped import resource
from handtrain.exporting.export import export
from handtrain.exporting.single_file import original_tensors
from handtrain.model.backbones.stable_diffusion_xl import NETWORKS
from handtrain.model.base import open_base
from handtrain.model.components import canonical
from handtrain.model.formats import single_file
from handtrain.model.formats.lora import layers_of
from handtrain.model.tokenizer import check_tokenizer, load_tokenizer
from tests.handtrain.tiny_xl import write_xl_base

pytestmark = pytest.mark.slow  # a minute together
SHIPPED = "manifests/bases/stable-diffusion-xl"
# of Stable Diffusion XL base 1.0
PARAMETERS = {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840}


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xl_base(tmp_path_factory.mktemp("xl") / "base")


@pytest.fixture(scope="module")
def lora_run(xl: Path, train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a LoRA run whose change is large enough to be seen."""
    run = tmp_path_factory.mktemp("lora") / "run"
    return Path(train(run, "smoke", base=xl, lam=1.0, lora_rank=4, unet_lr=3e-2, unet_epochs=6).model)


@pytest.mark.parametrize("part", NETWORKS)
def test_diffusers_converters_invert_our_names_at_full_size(part: str) -> None:
    config = json.loads((resource(SHIPPED) / part / "config.json").read_text())
    network = NETWORKS[part].empty(config)
    assert sum(weight.numel() for weight in network.parameters()) == PARAMETERS[part]
    tensors = original_tensors(part, network, config, "xl", torch.float16, xl=True)
    if part == "unet":
        found = theirs.convert_ldm_unet_checkpoint(tensors, config)
    elif part == "vae":
        found = theirs.convert_ldm_vae_checkpoint(tensors, config)
    elif part == "text_encoder":
        found = theirs.convert_ldm_clip_checkpoint(tensors)
    else:
        found = theirs.convert_open_clip_checkpoint(network, tensors, prefix="conditioner.embedders.1.model.")
    expected = {canonical(n): t.shape for n, t in network.state_dict().items() if not n.endswith("position_ids")}
    assert {canonical(name): tensor.shape for name, tensor in found.items()} == expected


@pytest.fixture
def file(xl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny base in one file, whose sizes stand for those of the real one."""
    out = tmp_path / "xl.safetensors"
    export(xl, to="single-file", out=out)
    monkeypatch.setattr(single_file, "_CONFIGURATIONS", {(8, 24): SHIPPED})
    monkeypatch.setattr(single_file, "resource", lambda name: xl if name == SHIPPED else resource(name))
    return out


def test_one_file_is_read_as_the_folder(xl: Path, file: Path) -> None:
    ours, folder = open_base(file), open_base(xl)
    for part in NETWORKS:
        first, second = (base.network(part).state_dict() for base in (ours, folder))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name].float(), second[name].float()) for name in first), part
    tensors = load_file(file)
    assert {name.split(".")[0] for name in tensors} == {"model", "first_stage_model", "conditioner"}
    projection = folder.network("text_encoder_2").text_projection.weight
    assert torch.equal(tensors["conditioner.embedders.1.model.text_projection"], projection.T)


def test_diffusers_reads_the_unet_and_the_vae_of_the_file(xl: Path, file: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = open_base(xl)
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        loaded = kind.from_single_file(str(file), config=str(xl), subfolder=part, local_files_only=True).state_dict()
        expected = folder.network(part).state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_diffusers_reads_the_whole_pipeline_of_the_file(xl: Path, file: Path) -> None:
    whole = StableDiffusionXLPipeline.from_single_file(str(file), config=str(xl), local_files_only=True)
    folder = open_base(xl)
    for part in NETWORKS:
        loaded = {canonical(name): tensor for name, tensor in getattr(whole, part).state_dict().items()}
        expected = {canonical(name): tensor for name, tensor in folder.network(part).state_dict().items()}
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items()), part
        assert loaded.keys() - expected.keys() <= {"embeddings.position_ids"}, part
    whole.scheduler = folder.sampling_schedule()
    same = StableDiffusionXLPipeline.from_pretrained(xl, scheduler=whole.scheduler)
    np.testing.assert_array_equal(_draw(whole), _draw(same))


def test_the_flag_says_what_the_files_unet_predicts(file: Path) -> None:
    from handtrain.model.formats.single_file import open_single_file

    assert open_base(file).training_schedule().config.prediction_type == "epsilon"
    tensors = load_file(file)
    from safetensors.torch import save_file

    save_file(tensors, file)  # without the header in which our file states it
    opened = open_base(file, prediction_type="v_prediction")
    assert opened.training_schedule().config.prediction_type == "v_prediction"
    save_file({**tensors, "v_pred": torch.zeros(1)}, file)
    assert open_single_file(file, "--base", None).prediction == "v_prediction"


def test_the_second_tokenizer_of_a_file_pads_with_an_exclamation_mark() -> None:
    """As the tokenizers of stabilityai/stable-diffusion-xl-base-1.0 do: the same tokens, two paddings."""
    single = single_file.SingleFile(Path("xl.safetensors"), Path("stable-diffusion-xl"), {}, None, xl=True)
    folders = single.tokenizers(77)
    ids = {}
    for part, folder in folders.items():
        tokenizer = load_tokenizer(folder, 77)
        check_tokenizer(tokenizer, 49408)
        ids[part] = tokenizer("a photo of a cat", padding="max_length", max_length=77).input_ids
    start, end = [49406, 320, 1125, 539, 320, 2368, 49407], 49407
    assert ids == {"tokenizer": start + [end] * 70, "tokenizer_2": start + [0] * 70}


def _draw(pipeline: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(1)
    image = pipeline("a person", num_inference_steps=3, generator=noise, guidance_scale=3.0).images[0]
    return np.asarray(image, dtype=np.float64)


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("layers", [None, "all"])
def test_a_lora_file_gives_the_models_pictures(
    lora_run: Path, xl: Path, tmp_path: Path, form: Any, layers: Any
) -> None:
    out = tmp_path / "call.safetensors"
    rank = {"rank": 16, "layers": layers} if layers else {}
    export(lora_run, to="lora", out=out, base=xl, lora_format=form, images=0, **rank)
    kind: Any = StableDiffusionXLPipeline
    with_file, scheduler = kind.from_pretrained(xl), kind.from_pretrained(lora_run).scheduler
    with_file.scheduler = scheduler
    before = _draw(with_file)
    with_file.load_lora_weights(out)
    merged = _draw(kind.from_pretrained(lora_run))
    assert np.abs(_draw(with_file) - merged).mean() <= 2
    assert np.abs(before - merged).mean() > 4, "the change can be seen"


def test_kohyas_names_are_those_of_sd_scripts(lora_run: Path, xl: Path, tmp_path: Path) -> None:
    """sd-scripts builds this UNet of the original modules: the names of the tiny one's attentions, written by hand."""
    out = tmp_path / "call.safetensors"
    export(lora_run, to="lora", out=out, base=xl, lora_format="kohya")
    modules = {name.partition(".")[0] for name in load_file(out)}
    places = {"input_blocks_3_1": 2, "middle_block_1": 2, "output_blocks_0_1": 2, "output_blocks_1_1": 2}
    expected = {
        f"lora_unet_{place}_transformer_blocks_{block}_attn{which}_{target}"
        for place, blocks in places.items()
        for block in range(blocks)
        for which in (1, 2)
        for target in ("to_q", "to_k", "to_v", "to_out_0")
    }
    assert modules == expected


def _original_layers(unet: Any) -> dict[str, tuple[int, ...]]:
    """Return names in sd-scripts and shapes of the layers in blocks, written down from the original UNet's order.

    Input blocks: the first convolution, then of every level its residual blocks, each with a transformer where the
    level has them, and a convolution that halves the sides. The output blocks run backwards, with one more each.
    """
    resnet = {
        "norm1": "in_layers_0", "conv1": "in_layers_2", "time_emb_proj": "emb_layers_1", "norm2": "out_layers_0",
        "conv2": "out_layers_3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {}

    def add(module: Any, place: str, names: dict[str, str] | None = None) -> None:
        for name, layer in module.named_modules():
            if type(layer).__name__ in ("Linear", "Conv2d"):
                path = (names or {}).get(name, name.replace(".", "_"))
                found[f"lora_unet_{place}_{path}"] = tuple(layer.weight.shape)

    number = 1
    for block in unet.down_blocks:
        for place, each in enumerate(block.resnets):
            add(each, f"input_blocks_{number}_0", resnet)
            if hasattr(block, "attentions"):
                add(block.attentions[place], f"input_blocks_{number}_1")
            number += 1
        for each in block.downsamplers or ():
            add(each, f"input_blocks_{number}_0", {"conv": "op"})
            number += 1
    for place, each in enumerate((unet.mid_block.resnets[0], unet.mid_block.attentions[0], unet.mid_block.resnets[1])):
        add(each, f"middle_block_{place}", None if place == 1 else resnet)
    number = 0
    for block in unet.up_blocks:
        for place, each in enumerate(block.resnets):
            add(each, f"output_blocks_{number}_0", resnet)
            last = 1
            if hasattr(block, "attentions"):
                add(block.attentions[place], f"output_blocks_{number}_1")
                last = 2
            if place + 1 == len(block.resnets):
                for up in block.upsamplers or ():
                    add(up, f"output_blocks_{number}_{last}", {"conv": "conv"})
            number += 1
    return found


def test_kohyas_names_shapes_and_alphas_of_all_layers_are_those_of_sd_scripts(
    lora_run: Path, xl: Path, tmp_path: Path
) -> None:
    out, rank = tmp_path / "all.safetensors", 3
    export(lora_run, to="lora", out=out, base=xl, rank=rank, layers="all", lora_format="kohya", images=0)
    tensors, expected = load_file(out), {}
    unet = open_base(xl).denoiser()
    layers = _original_layers(unet)
    assert len(layers) == len(layers_of(unet, "all")) > 40
    for name, (size, *inner) in layers.items():
        expected[f"{name}.lora_down.weight"] = (rank, *inner)
        expected[f"{name}.lora_up.weight"] = (size, rank, *(1 for _ in inner[1:]))
        expected[f"{name}.alpha"] = ()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
    assert {float(tensor) for name, tensor in tensors.items() if name.endswith("alpha")} == {float(rank)}


def test_the_header_names_architecture_and_licence(lora_run: Path, xl: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    out = tmp_path / "call.safetensors"
    export(lora_run, to="lora", out=out, base=xl)
    with safe_open(out, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata["modelspec.license"] == "CreativeML OpenRAIL++-M"
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"


def test_half_precision_is_a_folder_of_the_same_kind(lora_run: Path, tmp_path: Path) -> None:
    export(lora_run, to="fp16", out=tmp_path / "half")
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(tmp_path / "half", torch_dtype=torch.float16)
    assert pipeline.unet.dtype == pipeline.text_encoder_2.dtype == torch.float16
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "half" / name).stat().st_size < 0.6 * (lora_run / name).stat().st_size
