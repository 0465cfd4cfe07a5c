import json
from pathlib import Path

import pytest
import torch

from handdata.errors import UserError
from handtrain import Hand1000Pipeline
from handtrain.model.import_checkpoint import import_checkpoint


@pytest.fixture(scope="module")
def sd_like_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose UNet has Stable Diffusion's blocks, by which the original layout names its weights."""
    from diffusers import UNet2DConditionModel

    from tests.handtrain.tiny import WIDTH, write_base

    folder = write_base(tmp_path_factory.mktemp("sd") / "base")
    torch.manual_seed(5)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8, 16, 16), layers_per_block=2, cross_attention_dim=WIDTH,
        attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    unet.save_pretrained(folder / "unet")
    return folder


def _original_layout(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Rename a diffusers UNet's weights as CompVis' code names them, written from that code's module structure."""
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
    named = {}
    for name, tensor in unet.state_dict().items():
        part = name.split(".")
        if part[0] in ("conv_in", "conv_norm_out", "conv_out", "time_embedding"):
            first = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
            time = {"linear_1": "time_embed.0", "linear_2": "time_embed.2"}
            new = [time[part[1]], part[2]] if part[0] == "time_embedding" else [first[part[0]], part[1]]
        elif part[0] == "mid_block":
            place = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(part[1:3])]
            new = [f"middle_block.{place}", *part[3:]]
        else:
            block, kind, number = int(part[1]), part[2], int(part[3])
            if part[0] == "down_blocks":
                at = 1 + 3 * block + (number if kind != "downsamplers" else 2)
                inner = {"resnets": "0", "attentions": "1", "downsamplers": "0"}[kind]
                new = [f"input_blocks.{at}.{inner}", *part[4:]]
            else:
                at = 3 * block + (number if kind != "upsamplers" else 2)
                inner = {"resnets": "0", "attentions": "1", "upsamplers": "1" if block == 0 else "2"}[kind]
                new = [f"output_blocks.{at}.{inner}", *part[4:]]
            if kind == "downsamplers":
                new[1] = "op"
        if "resnets" in part:
            new = [resnet.get(word, word) for word in new]
        named["model.diffusion_model." + ".".join(new)] = tensor
    return named


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_the_tuned_half_of_a_released_checkpoint_becomes_a_model(sd_like_base: Path, tmp_path: Path, new: bool) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    tuned = UNet2DConditionModel.from_pretrained(sd_like_base, subfolder="unet")
    with torch.no_grad():
        for number, weight in enumerate(tuned.parameters()):
            weight.add_(0.001 * (number + 1))  # each by its own step, so that a swap shows
    weights = _original_layout(tuned)
    untouched = {f"model_ema.{name[6:].replace('.', '')}": torch.zeros_like(weight) for name, weight in weights.items()}
    other = {"first_stage_model.x": torch.zeros(2), "fusion.weight": torch.zeros(3, 3)}
    torch.save(
        {"state_dict": {**weights, **untouched, **other}}, tmp_path / "last.ckpt", _use_new_zipfile_serialization=new
    )
    out = import_checkpoint(tmp_path / "last.ckpt", sd_like_base, "call", tmp_path / "m")
    imported = StableDiffusionPipeline.from_pretrained(out).unet.state_dict()
    assert all(torch.equal(tensor, imported[name]) for name, tensor in tuned.state_dict().items())
    pipeline = Hand1000Pipeline.from_pretrained(out)
    assert pipeline("a hand", num_inference_steps=1, output_type="np").images.shape == (1, 16, 16, 3)
    assert json.loads((out / "hand1000.json").read_text())["fusion"] == {"kind": "none"}
    assert "last.ckpt" in (out / "README.md").read_text()


class Code:
    """An object that only full unpickling would create."""


def test_a_checkpoint_with_code_in_it_is_refused(sd_like_base: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.diffusion_model.x": torch.zeros(1)}, "callbacks": Code()}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="cannot be read as weights alone"):
        import_checkpoint(tmp_path / "bad.ckpt", sd_like_base, "call", tmp_path / "out")


def test_another_layout_or_size_is_one_sentence(sd_like_base: Path, base: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"has no model\.diffusion_model\.\*"):
        import_checkpoint(tmp_path / "other.ckpt", sd_like_base, "call", tmp_path / "out")
    from diffusers import UNet2DConditionModel

    weights = _original_layout(UNet2DConditionModel.from_pretrained(sd_like_base, subfolder="unet"))
    torch.save({"state_dict": weights}, tmp_path / "large.ckpt")
    with pytest.raises(UserError, match="does not fit"):
        import_checkpoint(tmp_path / "large.ckpt", base, "call", tmp_path / "out")
    torch.save({"state_dict": weights}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.ckpt").read_bytes()
    for damaged in (b"", b"no weights", b"PK", *(old[:end] for end in (30, 1000, len(old) - 9))):
        (tmp_path / "damaged.ckpt").write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as weights alone"):
            import_checkpoint(tmp_path / "damaged.ckpt", base, "call", tmp_path / "out")
    with pytest.raises(UserError, match="is not a file"):
        import_checkpoint(tmp_path / "absent.ckpt", base, "call", tmp_path / "out")


@pytest.mark.parametrize("name", ["notes", "notes/thesis.txt"])
def test_a_folder_of_the_user_is_not_replaced(sd_like_base: Path, tmp_path: Path, name: str) -> None:
    from diffusers import UNet2DConditionModel

    weights = _original_layout(UNet2DConditionModel.from_pretrained(sd_like_base, subfolder="unet"))
    torch.save({"state_dict": weights}, tmp_path / "last.ckpt")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("hands")
    with pytest.raises(UserError, match="exists already"):
        import_checkpoint(tmp_path / "last.ckpt", sd_like_base, "call", tmp_path / name)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "hands"
    (tmp_path / "empty").mkdir()
    assert (import_checkpoint(tmp_path / "last.ckpt", sd_like_base, "call", tmp_path / "empty") / "unet").is_dir()
