import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import UserError
from handtrain.model.base import open_base
from tests.handtrain.hostile_bases import POINTER, damage, use
from tests.handtrain.tiny import write_base


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("whole") / "base")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "base"))


def _set(file: Path, **values: Any) -> None:
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({name: value for name, value in content.items() if value != "absent"}))


@pytest.mark.parametrize("seed", range(24))
def test_d2_a_damaged_base_is_used_whole_or_refused_in_one_sentence(copy: Path, seed: int) -> None:
    damage(copy, seed)
    use(copy)  # raises for anything else than one sentence


@pytest.mark.parametrize(
    ("part", "values", "sentence"),
    [
        ("unet", {"cross_attention_dim": 24}, "unet: its weight .* has the shape"),
        ("unet", {"in_channels": 9}, "unet: its weight conv_in.weight has the shape"),
        ("unet", {"layers_per_block": 2}, "unet: its weights lack"),
        ("unet", {"layers_per_block": 10**12}, "impossible value for layers_per_block"),
        ("unet", {"attention_head_dim": "absent"}, "unet: its configuration lacks attention_head_dim"),
        ("unet", {"sample_size": [8, 8]}, "sample_size"),
        ("unet", {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 8}, "unet: "),
        ("vae", {"scaling_factor": float("nan")}, "vae: its config.json has an impossible value for scaling_factor"),
        ("vae", {"scaling_factor": "0.18"}, "vae: its scaling_factor is 0.18"),
        ("vae", {"down_block_types": ["DownEncoderBlock2D", "NoBlock2D"]}, "vae: its config.json is not supported"),
        ("text_encoder", {"vocab_size": 500}, "text_encoder: its weight .*token_embedding.weight has the shape"),
        ("text_encoder", {"num_hidden_layers": 1}, "text_encoder: its weights contain"),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "scheduler: it is a FlowMatch"),
        ("scheduler", {"_class_name": "MagicScheduler"}, "scheduler: it is a MagicScheduler"),
        ("scheduler", {"beta_end": "absent"}, "scheduler: its configuration lacks beta_end"),
        ("scheduler", {"beta_schedule": "zigzag"}, "scheduler: it is not supported"),
        ("scheduler", {"prediction_type": "sample"}, "scheduler: it predicts 'sample'"),
    ],
)
def test_d2_sizes_and_names_that_do_not_fit_are_found_before_training(
    copy: Path, part: str, values: dict[str, Any], sentence: str
) -> None:
    _set(copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **values)
    with pytest.raises(UserError, match=sentence):
        open_base(copy)


def _pointer(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(POINTER)


def _cut(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def _long(folder: Path) -> None:
    with (folder / "unet" / "diffusion_pytorch_model.safetensors").open("ab") as file:
        file.write(b"more")


def _merges(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["ab</w>"] = 700
    file.write_text(json.dumps(content))


def _vocabulary_alone(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))


def _odd_rules(folder: Path) -> None:
    _set(folder / "tokenizer" / "tokenizer.json", pre_tokenizer=3)


def _odd_library(folder: Path) -> None:
    _set(folder / "model_index.json", unet=["subprocess", "Popen"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_pointer, "is a Git LFS pointer: run `git lfs pull`"),
        (_cut, "is cut off .9 bytes are missing"),
        (_long, "header that does not fit its content"),
        (_merges, "vocabulary and merges do not fit"),
        (_vocabulary_alone, "neither tokenizer.json nor both of vocab.json and merges.txt"),
        (_odd_rules, "tokenizer: its files cannot be read"),
        (_odd_library, "model_index.json names Popen of subprocess for it"),
    ],
)
def test_d2_an_incomplete_base_is_one_sentence(copy: Path, change: Callable[[Path], None], sentence: str) -> None:
    change(copy)
    with pytest.raises(UserError, match=sentence):
        open_base(copy)


def _shards(folder: Path, **index: Any) -> Path:
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    file.unlink()
    parts = {f"part-{number}.safetensors": names[number::2] for number in range(2)}
    for name, own in parts.items():
        save_file({key: tensors[key] for key in own}, file.with_name(name))
    weight_map = {key: name for name, own in parts.items() for key in own}
    content = {"metadata": {}, "weight_map": weight_map, **index}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(content))
    return file.parent


def test_d2_weights_in_several_files_are_those_of_one_file(copy: Path, whole: Path) -> None:
    import torch

    _shards(copy)
    ours, theirs = (open_base(folder).denoiser().state_dict() for folder in (copy, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_d2_a_missing_shard_and_an_index_with_a_path_are_one_sentence(copy: Path) -> None:
    folder = _shards(copy)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"its file part-1\.safetensors is missing"):
        open_base(copy)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}))
    with pytest.raises(UserError, match="which is not a file of the folder"):
        open_base(copy)


def test_d2_configurations_with_a_byte_order_mark_and_old_names_of_weights_are_read(copy: Path, whole: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    config = copy / "vae" / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in load_file(file).items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = tensor
    assert any(".query." in name for name in old)
    save_file(old, file)
    ours, theirs = (open_base(folder).vae().state_dict() for folder in (copy, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
