"""Stable Diffusion XL in other formats: one file with the original names, and LoRA files of both kinds."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders import single_file_utils as theirs
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from handdata import assets
from handdata.errors import UserError
from handdata.shipped import resource
from handtrain.exporting.export import export
from handtrain.exporting.single_file import original_tensors
from handtrain.model.backbones import stable_diffusion_xl
from handtrain.model.backbones.stable_diffusion_xl import NETWORKS
from handtrain.model.base import open_base
from handtrain.model.components import canonical
from handtrain.model.formats import single_file
from handtrain.model.formats.lora import layers_of, named
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


def test_diffusers_reads_the_whole_file_and_draws(xl: Path, file: Path) -> None:
    kind: Any = StableDiffusionXLPipeline
    ours = kind.from_single_file(str(file), config=str(xl), local_files_only=True)
    folder = kind.from_pretrained(xl)
    for part in NETWORKS:
        loaded, expected = (getattr(pipeline, part).state_dict() for pipeline in (ours, folder))
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name].float(), expected[name].float()) for name in expected), part
    np.testing.assert_array_equal(_draw(ours), _draw(folder))


@pytest.mark.parametrize("stated", [True, False])
def test_v_prediction_is_kept_by_every_format(xl: Path, file: Path, tmp_path: Path, stated: bool) -> None:
    """In its own header, in the tensor `v_pred` that other programs look for, and in the folder."""
    scheduler = xl / "scheduler" / "scheduler_config.json"
    copy = Path(shutil.copytree(xl, tmp_path / "velocity"))
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    velocity = {**json.loads(scheduler.read_text()), **zero, "prediction_type": "v_prediction"}
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(velocity))
    export(copy, to="diffusers", out=tmp_path / "folder")
    assert open_base(tmp_path / "folder").training_schedule().config.prediction_type == "v_prediction"
    one = tmp_path / "velocity.safetensors"
    export(copy, to="single-file", out=one)
    with safe_open(one, "pt") as opened:
        assert opened.metadata()["modelspec.prediction_type"] == "v"
    tensors = load_file(one)
    assert tensors["v_pred"].numel() == tensors["ztsnr"].numel() == 0
    assert not {"v_pred", "ztsnr"} & load_file(file).keys()
    ours, folder = (open_base(each) for each in (one, copy))
    assert torch.equal(ours.training_schedule().alphas_cumprod, folder.training_schedule().alphas_cumprod)
    assert ours.sampling_schedule().config == folder.sampling_schedule().config
    assert float(ours.training_schedule().alphas_cumprod[-1]) == 0
    if not stated:
        del tensors["v_pred"]
    save_file(tensors, one)  # without our header
    types = [open_base(one, prediction_type=given).training_schedule().config.prediction_type
             for given in (None, "v_prediction")]  # fmt: skip
    assert types == ["v_prediction" if stated else "epsilon", "v_prediction"]
    if stated:
        with pytest.raises(UserError, match=r"--prediction-type epsilon: the file .* states v_prediction"):
            open_base(one, prediction_type="epsilon")


def test_the_second_tokenizer_of_a_file_pads_with_the_mark() -> None:
    """Compared with transformers' class on a vocabulary that is numbered here from CLIP's list of merges."""
    lines = gzip.decompress(assets.path("clip-vocabulary").read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1:48895]]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    shipped = single_file.SingleFile(Path("xl.safetensors"), resource(SHIPPED), {}, None, xl=True)
    folders = shipped.tokenizers(77)
    assert (len(vocabulary), list(folders)) == (49408, ["tokenizer", "tokenizer_2"])
    make: Any = CLIPTokenizer
    for part, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        ours = stable_diffusion_xl.load_tokenizer(folders[part], 77)
        reference = make(vocab=vocabulary, merges=merges, pad_token=padding)
        assert ours.pad_token_id == {"tokenizer": 49407, "tokenizer_2": 0}[part]
        for text in ("a photo of a cat", "A  Hand, 2 fingers: it's PALM-up\u00e9!", "", "word " * 100):
            ids = [each(text, padding="max_length", max_length=77, truncation=True).input_ids
                   for each in (ours, reference)]  # fmt: skip
            assert ids[0] == ids[1] and len(ids[0]) == 77
        blank = ours("", padding="max_length", max_length=77).input_ids
        assert blank == [49406, 49407, *[ours.pad_token_id] * 75]


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


def _layers_of_sd_scripts(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every layer that sd-scripts trains with convolutions, written from the modules of XL.

    It enters `Transformer2DModel`, `ResnetBlock2D`, `Downsample2D` and `Upsample2D` of its UNet, whose modules are the
    original ones in three rows.
    """
    found: dict[str, tuple[int, ...]] = {}
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    depths, width = config["transformer_layers_per_block"], config["cross_attention_dim"]

    def resnet(place: str, inner: int, outer: int) -> None:
        shapes = {"in_layers_2": (outer, inner, 3, 3), "emb_layers_1": (outer, 4 * channels[0]),
                  "out_layers_3": (outer, outer, 3, 3)}  # fmt: skip
        shapes |= {"skip_connection": (outer, inner, 1, 1)} if inner != outer else {}
        found.update({f"lora_unet_{place}_{name}": shape for name, shape in shapes.items()})

    def transformer(place: str, size: int, depth: int) -> None:
        shapes: dict[str, tuple[int, ...]] = {"proj_in": (size, size), "proj_out": (size, size)}
        for block in range(depth):
            for which, read in ((1, size), (2, width)):
                inside = {"to_q": size, "to_k": read, "to_v": read, "to_out_0": size}
                shapes |= {f"transformer_blocks_{block}_attn{which}_{to}": (size, n) for to, n in inside.items()}
            shapes[f"transformer_blocks_{block}_ff_net_0_proj"] = (8 * size, size)
            shapes[f"transformer_blocks_{block}_ff_net_2"] = (size, 4 * size)
        found.update({f"lora_unet_{place}_{name}": shape for name, shape in shapes.items()})

    before, skips, row = channels[0], [channels[0]], 1
    for level, size in enumerate(channels):
        for _ in range(layers):
            resnet(f"input_blocks_{row}_0", before, size)
            if "CrossAttn" in config["down_block_types"][level]:
                transformer(f"input_blocks_{row}_1", size, depths[level])
            before, row = size, row + 1
            skips.append(size)
        if level < len(channels) - 1:
            found[f"lora_unet_input_blocks_{row}_0_op"] = (size, size, 3, 3)
            row += 1
            skips.append(size)
    for place in (0, 2):
        resnet(f"middle_block_{place}", before, before)
    transformer("middle_block_1", before, depths[-1])
    row = 0
    for level in reversed(range(len(channels))):
        size = channels[level]
        attends = config["down_block_types"][level].startswith("CrossAttn")
        for number in range(layers + 1):
            resnet(f"output_blocks_{row}_0", before + skips.pop(), size)
            if attends:
                transformer(f"output_blocks_{row}_1", size, depths[level])
            if level and number == layers:
                found[f"lora_unet_output_blocks_{row}_{1 + attends}_conv"] = (size, size, 3, 3)
            before, row = size, row + 1
    return found


def test_kohyas_names_of_all_layers_are_those_of_sd_scripts(lora_run: Path, xl: Path, tmp_path: Path) -> None:
    """Names, shapes and alphas of a file; nothing of the text encoders."""
    out, rank = tmp_path / "call.safetensors", 3
    export(lora_run, to="lora", out=out, base=xl, lora_format="kohya", layers="all", rank=rank, images=0)
    tensors, expected = load_file(out), {}
    for name, (size, *inner) in _layers_of_sd_scripts(dict(open_base(xl).configs["unet"])).items():
        expected[f"{name}.lora_down.weight"] = (rank, *inner)
        expected[f"{name}.lora_up.weight"] = (size, rank, *(1 for _ in inner[1:]))
        expected[f"{name}.alpha"] = ()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
    assert {float(tensor) for name, tensor in tensors.items() if name.endswith("alpha")} == {float(rank)}
    assert not any(name.startswith("lora_te") for name in tensors)


def test_kohyas_names_at_full_size_are_those_of_sd_scripts() -> None:
    config = json.loads((resource(SHIPPED) / "unet" / "config.json").read_text())
    factors = {
        name: (torch.empty(1, *layer.weight.shape[1:], device="meta"), torch.empty(layer.weight.shape[0], 1))
        for name, layer in layers_of(NETWORKS["unet"].empty(config), "all").items()
    }
    ours = {name.partition(".")[0] for name in named(factors, "kohya", "unet", config)}
    theirs_names = set(_layers_of_sd_scripts(config))
    assert ours == theirs_names
    assert len([name for name in ours if "transformer_blocks" in name or "_proj_" in name]) == 722, "published count"


def test_the_header_names_architecture_and_licence(lora_run: Path, xl: Path, tmp_path: Path) -> None:
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
