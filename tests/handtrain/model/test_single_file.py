"""Bases in one file: our names of weights against diffusers' converters, reading, and what is refused."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from handdata.errors import UserError
from handdata.huggingface import parse_model
from handdata.shipped import resource, shipped_model
from handtrain.exporting.single_file import original_tensors, write_single_file
from handtrain.generation.generate import generate
from handtrain.model.backbones.interface import Sizes
from handtrain.model.backbones.stable_diffusion import NETWORKS
from handtrain.model.base import open_base
from handtrain.model.components import canonical
from handtrain.model.formats import single_file

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
MINI = shipped_model("mini-stable-diffusion")


@pytest.fixture(scope="module")
def mini_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini model, whose weights are stored in half precision, as a single file."""
    out = tmp_path_factory.mktemp("single") / "mini.safetensors"
    write_single_file(out, open_base(MINI), {})
    return out


def _empty(name: str, part: str) -> tuple[Any, dict[str, Any]]:
    config = json.loads((resource(name) / part / "config.json").read_text())
    return NETWORKS[part].empty(config), config


def _converted(part: str, network: Any, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the weights as diffusers' own converters name those of a single file."""
    from diffusers.loaders import single_file_utils as theirs

    if part == "unet":
        found = theirs.convert_ldm_unet_checkpoint(tensors, config)
    elif part == "vae":
        found = theirs.convert_ldm_vae_checkpoint(tensors, config)
    elif config["hidden_act"] == "gelu":
        found = theirs.convert_open_clip_checkpoint(network, tensors)
    else:
        found = theirs.convert_ldm_clip_checkpoint(tensors)
    return {canonical(name): tensor for name, tensor in found.items()}


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # the published numbers of parameters
        ("stable-diffusion-1", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        ("stable-diffusion-2", {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
    ],
)
def test_diffusers_converters_invert_our_names_at_full_size(name: str, parameters: dict[str, int], part: str) -> None:
    network, config = _empty(f"manifests/bases/{name}", part)
    assert sum(weight.numel() for weight in network.parameters()) == parameters[part]
    tensors = original_tensors(part, network, config, name, torch.float16)
    expected = {canonical(n): t.shape for n, t in network.state_dict().items() if not n.endswith("position_ids")}
    assert {n: t.shape for n, t in _converted(part, network, config, tensors).items()} == expected


def test_a_file_of_ours_loads_in_diffusers_and_here_with_equal_tensors(mini_file: Path) -> None:
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_single_file(str(mini_file), config=str(MINI), local_files_only=True)
    ours, folder = open_base(mini_file), open_base(MINI)
    for part in NETWORKS:
        loaded = [{canonical(n): t for n, t in b.network(part).state_dict().items()} for b in (ours, folder)]
        reference = {canonical(name): tensor for name, tensor in getattr(theirs, part).state_dict().items()}
        for state in loaded:
            assert state.keys() == reference.keys()
            assert all(torch.equal(state[name].float(), reference[name].float()) for name in reference)
    assert {tensor.dtype for tensor in load_file(mini_file).values()} == {torch.float16}
    assert ours.tokenizer()("a hand").input_ids == folder.tokenizer()("a hand").input_ids
    assert ours.configs["scheduler"] == folder.configs["scheduler"]


@pytest.mark.slow
def test_a_single_file_trains_and_generates_as_the_folder(
    mini_file: Path, train: Callable[..., Any], tmp_path: Path
) -> None:
    weights, pictures = [], []
    for name, base in (("folder", MINI), ("file", mini_file)):
        run = train(tmp_path / name, base=base)
        weights.append(load_file(run.model / "unet" / "diffusion_pytorch_model.safetensors"))
        for place, model in (("base", base), ("tuned", run.model)):
            out = tmp_path / f"{name}-{place}"
            generate(model, out=out, prompt="a hand", device="cpu", steps=2, progress=False)
            pictures.append(np.asarray(Image.open(out / "image-s0.png")))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert np.array_equal(pictures[0], pictures[2])
    assert np.array_equal(pictures[1], pictures[3])
    assert not np.array_equal(pictures[0], pictures[1])
    training = json.loads((tmp_path / "file" / "model" / "hand1000.json").read_text())["training"]
    assert training["base"]["place"] == "mini.safetensors"
    assert training["base"]["fingerprint"] == open_base(mini_file).fingerprint()


def test_openclips_joined_weights_are_split_as_diffusers_does(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text encoder of version 2: other names, and one weight for query, key and value."""
    import shutil

    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = Path(shutil.copytree(base, tmp_path / "tiny-2"))
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    torch.manual_seed(3)
    CLIPTextModel(CLIPTextConfig(**{**config, "hidden_act": "gelu"})).save_pretrained(folder / "text_encoder")
    out = tmp_path / "two.safetensors"
    write_single_file(out, open_base(folder), {})
    assert "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight" in load_file(out)
    monkeypatch.setattr(single_file, "_CONFIGURATIONS", {(8, 16): str(folder)})
    monkeypatch.setattr(single_file, "resource", Path)
    ours = open_base(out).network("text_encoder").state_dict()
    theirs = StableDiffusionPipeline.from_single_file(str(out), config=str(folder), local_files_only=True)
    reference = {canonical(name): tensor for name, tensor in theirs.text_encoder.state_dict().items()}
    assert all(torch.equal(tensor, reference[canonical(name)]) for name, tensor in ours.items())

    tensors, square = load_file(out), "first_stage_model.encoder.mid.attn_1.q.weight"
    assert tensors[square].shape == (8, 8, 1, 1)
    save_file({**tensors, square: tensors[square].flatten(1)}, out)  # some programs store matrices
    vae, whole = (open_base(each).vae().state_dict() for each in (out, folder))
    assert all(torch.equal(tensor, vae[name]) for name, tensor in whole.items())


def _sparse(path: Path, name: str, metadata: dict[str, str] | None = None) -> Path:
    """Write the header of a full-size model and a hole for its weights: files are checked before they are read."""
    header: dict[str, Any] = {"__metadata__": metadata or {}}
    end = 0
    for part in NETWORKS:
        network, config = _empty(f"manifests/bases/{name}", part)
        for key, tensor in original_tensors(part, network, config, name, torch.float16).items():
            start, end = end, end + 2 * tensor.numel()
            header[key] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    data = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        file.truncate(8 + len(data) + end)
    return path


@pytest.mark.slow
def test_a_file_of_version_1_has_clips_tokens(tmp_path: Path) -> None:
    opened = open_base(_sparse(tmp_path / "one.safetensors", "stable-diffusion-1"))
    assert opened.sizes == Sizes(512, 8, 768, 77, 64)
    assert opened.configs["scheduler"]["prediction_type"] == "epsilon"
    ids = opened.tokenizer()("a photo of a cat", padding="max_length").input_ids
    assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]  # as OpenAI's tokenizer gives them
    assert set(ids[7:]) == {49407}


@pytest.mark.parametrize(
    ("flag", "metadata", "resolution"),
    [
        ("v_prediction", None, 768),
        ("epsilon", None, 512),
        (None, {"modelspec.prediction_type": "v"}, 768),
        (None, {"modelspec.prediction_type": "epsilon"}, 512),
    ],
)
def test_version_2_predicts_what_the_flag_or_the_file_says(
    tmp_path: Path, flag: str | None, metadata: dict[str, str] | None, resolution: int
) -> None:
    path = _sparse(tmp_path / "two.safetensors", "stable-diffusion-2", metadata)
    opened = single_file.open_single_file(path, "--base", flag)
    assert opened.adapted("scheduler", {})["prediction_type"] == ("v_prediction" if resolution == 768 else "epsilon")
    assert opened.adapted("unet", {"sample_size": 64})["sample_size"] * 8 == resolution
    assert "!" in opened.tokenizers(77)["tokenizer"].joinpath("tokenizer_config.json").read_text()
    if metadata:
        other = "epsilon" if resolution == 768 else "v_prediction"
        with pytest.raises(UserError, match=r"--prediction-type .* states .*: leave the option out"):
            single_file.open_single_file(path, "--base", other)


def test_version_2_without_either_is_refused(tmp_path: Path) -> None:
    path = _sparse(tmp_path / "two.safetensors", "stable-diffusion-2")
    with pytest.raises(UserError, match=r"give --prediction-type v_prediction"):
        open_base(path)


def test_a_folder_needs_no_prediction_type(base: Path) -> None:
    with pytest.raises(UserError, match="--prediction-type is for a single file"):
        open_base(base, prediction_type="epsilon")


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float16)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conditioner.embedders.0.transformer.x": _zeros(1)}, "it is not a whole Stable Diffusion"),
        (  # the refiner of XL
            {FIRST: _zeros(384, 4, 3, 3), "model.diffusion_model.input_blocks.4.1.attn2.to_k.weight": _zeros(1, 1280)},
            "begins with 384 channels and reads texts of width 1280: it is not a Stable Diffusion 1, 2 or XL",
        ),
        ({"lora_unet_mid_block.lora_up.weight": _zeros(1)}, "is a LoRA, which changes a base model"),
        ({"down_blocks.0.resnets.0.conv1.weight": _zeros(1)}, "not a whole Stable Diffusion with the original names"),
        ({FIRST: _zeros(320, 9, 3, 3)}, "takes 9 channels, as for inpainting"),
        ({FIRST: _zeros(321, 4, 3, 3)}, "begins with 321 channels"),
    ],
)
def test_other_files_are_refused_by_their_kind(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=message):
        open_base(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("first_stage_model.quant_conv.bias"), "vae: its weights lack quant_conv.bias"),
        (lambda tensors: tensors.update({"model.diffusion_model.extra": _zeros(1)}), "unet: its weights contain model"),
        (
            lambda tensors: tensors.update({FIRST: _zeros(80, 4, 1, 1)}),
            "its weight conv_in.weight has the shape",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_it_is_loaded(
    mini_file: Path, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    tensors = load_file(mini_file)
    change(tensors)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=message):
        open_base(tmp_path / "bad.safetensors")


def test_other_weights_and_shorter_names_of_the_text_encoder_are_read(mini_file: Path, tmp_path: Path) -> None:
    tensors = {name.replace("transformer.text_model.", "transformer."): t for name, t in load_file(mini_file).items()}
    tensors |= {"alphas_cumprod": _zeros(1000), "model_ema.decay": _zeros(1)}
    save_file(tensors, tmp_path / "other-names.safetensors")
    ours, folder = open_base(tmp_path / "other-names.safetensors"), open_base(MINI)
    for part in ("vae", "text_encoder"):
        state, reference = (each.network(part).state_dict() for each in (ours, folder))
        assert all(np.array_equal(state[name], reference[name]) for name in reference)


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"PK")
    command = rf"`handtrain export {tmp_path / 'model.ckpt'} --to single-file --out model.safetensors`"
    with pytest.raises(UserError, match=command):
        parse_model(str(tmp_path / "model.ckpt"), "--base")
