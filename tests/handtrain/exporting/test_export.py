"""Models for other programs: folders, LoRA files in both formats, and the conversion of pickles."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from handdata.cli import program
from handdata.errors import UserError
from handtrain import Hand1000Pipeline
from handtrain.cli import COMMANDS
from handtrain.exporting.export import export
from handtrain.exporting.factors import approximate, factored, merged
from handtrain.model.backbones.stable_diffusion import NETWORKS
from handtrain.model.base import open_base
from handtrain.model.formats.header import left_out
from handtrain.model.formats.lora import change, layers_of, read_lora
from tests.handtrain.tiny import PHRASE


@pytest.fixture(scope="module")
def lora_run(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained adapters of rank 2, far enough to see."""
    return Path(train(tmp_path_factory.mktemp("run") / "lora", lora_rank=2, unet_lr=5e-2).path)


def _picture(pipeline: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipeline(f"a person {PHRASE}", num_inference_steps=3, generator=generator, output_type="np").images[0]
    return np.asarray(image) * 255


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_runs_adapters_give_the_merged_models_images(lora_run: Path, base: Path, tmp_path: Path, form: Any) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    done = export(lora_run, to="lora", out=tmp_path / "hand.safetensors", lora_format=form)
    assert "the adapters of the run, rank 2" in str(done)
    assert ("ComfyUI and A1111 read the names of --lora-format kohya." in str(done)) == (form == "diffusers")
    plain = StableDiffusionPipeline.from_pretrained(base)
    merged_model = StableDiffusionPipeline.from_pretrained(lora_run / "model")
    plain.scheduler = DDIMScheduler.from_config(merged_model.scheduler.config)
    untuned = _picture(plain)
    plain.load_lora_weights(str(tmp_path), weight_name="hand.safetensors")
    difference = np.abs(_picture(plain) - _picture(merged_model))
    assert difference.max() <= 2
    assert np.abs(untuned - _picture(merged_model)).max() > 4  # without the file the images differ


def _names_of_sd_scripts(unet: torch.nn.Module, convolutions: bool) -> dict[str, tuple[int, ...]]:
    """Walk a UNet as sd-scripts' LoRANetwork does, written from its description.

    It enters modules of the named classes and takes every linear and convolution layer below them. Its UNet has the
    state dict of diffusers 0.10, so that a layer is called as here.
    """
    classes = ["Transformer2DModel"] + (["ResnetBlock2D", "Downsample2D", "Upsample2D"] if convolutions else [])
    found = {}
    for outer, module in unet.named_modules():
        if type(module).__name__ not in classes:
            continue
        for inner, layer in module.named_modules():
            if type(layer).__name__ in ("Linear", "Conv2d"):
                path = "_".join(["lora_unet", *outer.split("."), *inner.split(".")])
                found[path] = tuple(layer.weight.shape)
    return found


def test_kohyas_names_shapes_and_alphas_are_those_of_sd_scripts(model: Path, base: Path, tmp_path: Path) -> None:
    out, rank = tmp_path / "all.safetensors", 3
    export(model, to="lora", out=out, base=base, rank=rank, lora_format="kohya", images=0)
    tensors, expected = load_file(out), {}
    for name, (size, *inner) in _names_of_sd_scripts(open_base(base).denoiser(), convolutions=True).items():
        expected[f"{name}.lora_down.weight"] = (rank, *inner)
        expected[f"{name}.lora_up.weight"] = (size, rank, *(1 for _ in inner[1:]))
        expected[f"{name}.alpha"] = ()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
    assert {float(tensor) for name, tensor in tensors.items() if name.endswith("alpha")} == {float(rank)}
    metadata = _metadata(out)
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("3", "3.0")
    assert (metadata["ss_network_module"], metadata["ss_base_model_version"]) == ("networks.lora", "sd_v1")


def test_the_layers_of_attention_are_a_part_of_what_sd_scripts_trains_by_default(base: Path) -> None:
    unet = open_base(base).denoiser()
    ours = {"lora_unet_" + name.replace(".", "_") for name in layers_of(unet, "attention")}
    theirs = _names_of_sd_scripts(unet, convolutions=False)
    assert ours == {name for name in theirs if "_attn" in name}
    assert len(ours) == 4 * 2 * 4  # projections, attentions of a block, blocks (down, middle, up with two)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 4, 3, 3), (8, 2, 1, 1)])
def test_factors_are_those_of_the_singular_value_decomposition(shape: tuple[int, ...]) -> None:
    difference = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    for rank in (1, 2, 8):
        down, up = factored(difference, rank)
        nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
        assert down.shape == (rank, *shape[1:])
        assert up.shape == (shape[0], rank, *(1 for _ in shape[2:]))
        assert torch.allclose(change(down, up).flatten(1), nearest, atol=1e-10)


def test_a_full_runs_difference_is_kept_more_by_higher_ranks(model: Path, base: Path) -> None:
    tuned, before = open_base(model).denoiser(), open_base(base).denoiser()
    found = [approximate(tuned, before, rank, "all") for rank in (1, 4, 144)]
    kept = [each.kept_of_layers for each in found]
    assert kept[0] < kept[1] < kept[2] == pytest.approx(1, abs=1e-6)
    assert approximate(tuned, before, 4, "attention").kept_of_all < found[1].kept_of_all < 1
    whole = merged(open_base(base).denoiser(), found[2].factors).state_dict()
    for name in layers_of(before, "all"):
        assert torch.allclose(whole[f"{name}.weight"], tuned.state_dict()[f"{name}.weight"], atol=1e-7)
    assert torch.equal(whole["conv_in.weight"], before.state_dict()["conv_in.weight"])


def test_a_factored_run_prints_energy_and_pixels_and_what_is_left_out(
    token_model: Path, base: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    out = tmp_path / "hand.safetensors"
    text = str(export(token_model, to="lora", out=out, base=base, rank=2, images=1, device="cpu"))
    lines = text.splitlines()
    assert lines[0] == str(out)
    assert "rank 2 on" in lines[1]
    assert "of the energy" in lines[1]
    assert "1 pictures differ from the full model's by" in lines[2]
    assert "The gesture feature (fusion, 0.3 of the prompt's embedding) is left out" in text
    before = open_base(base)
    reached = merged(before.denoiser(), read_lora(out))
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(str(tmp_path), weight_name="hand.safetensors")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    loaded = pipeline.unet.state_dict()
    assert all(torch.allclose(tensor, loaded[name], atol=1e-6) for name, tensor in reached.state_dict().items())


def test_the_header_names_phrase_base_method_licence_and_hash(model: Path, tmp_path: Path) -> None:
    import hashlib

    out = tmp_path / "hand.safetensors"
    export(model, to="single-file", out=out)
    metadata = _metadata(out)
    assert metadata["modelspec.trigger_phrase"] == PHRASE
    assert metadata["modelspec.license"] == "CreativeML OpenRAIL-M"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert "gesture feature" in metadata["modelspec.usage_hint"]
    own = json.loads(metadata["hand1000"])
    assert (own["gestures"], own["base"]["place"], own["preset"]) == (["call"], "tiny", "smoke")
    data = out.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data[start:]).hexdigest()


def test_half_precision_halves_the_size_and_loads(token_model: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    out = tmp_path / "half"
    export(token_model, to="fp16", out=out)
    size = lambda folder: sum(path.stat().st_size for path in folder.rglob("*.safetensors"))  # noqa: E731
    assert 0.45 < size(out) / size(token_model) < 0.6  # the headers do not shrink
    stored = [tensor for path in out.rglob("*.safetensors") for tensor in load_file(path).values()]
    assert {tensor.dtype for tensor in stored} == {torch.float16}
    whole = _picture(Hand1000Pipeline.from_pretrained(token_model))
    assert np.abs(_picture(Hand1000Pipeline.from_pretrained(out)) - whole).mean() < 1
    plain = StableDiffusionPipeline.from_pretrained(out, dtype=torch.float32)
    assert np.abs(_picture(plain) - _picture(StableDiffusionPipeline.from_pretrained(token_model))).mean() < 1


def test_a_weight_that_half_precision_cannot_hold_is_named(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    large = Path(shutil.copytree(base, tmp_path / "large"))
    weights = load_file(large / "unet" / "diffusion_pytorch_model.safetensors")
    weights["conv_in.bias"][0] = 1e5
    save_file(weights, large / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"conv_in\.bias of the unet is too large"):
        export(large, to="fp16", out=tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_pose_layers_are_left_out_in_a_sentence() -> None:
    about = {"gestures": {"ok": {"phrase": "an ok sign"}}, "fusion": {"kind": "none"}, "lam": 1.0}
    assert left_out(about) == []
    posed = {**about, "pose": {"routes": ["map"]}}
    sentence = "The pose layers (pose.safetensors) are left out: poses need hand1000."
    assert left_out(posed) == [sentence]
    assert left_out({**posed, "training": {"options": {"pose_dropout": 0.1}}}) == [sentence]
    always = left_out({**posed, "training": {"options": {"pose_dropout": 0.0}}})
    assert always[0] == sentence and always[1].endswith("for programs that know no poses train with --pose none.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "lora"}, "needs the base of the model .tiny.: give --base"),
        (
            {"to": "lora", "base": "mini-stable-diffusion"},
            "is not the base that the model was trained from",
        ),
        ({"to": "fp16", "rank": 4}, "--rank is for --to lora"),
        ({"to": "fp16", "images": 0}, "--images is for --to lora"),
        ({"to": "fp16", "device": "cpu"}, "--device is for --to lora"),
        ({"to": "lora", "rank": 0}, "--rank 0 must be at least 1"),
        ({"to": "single-file", "out": "folder"}, "must end with .safetensors"),
        ({"to": "diffusers", "out": "there"}, "exists already"),
    ],
)
def test_mistakes_are_named(model: Path, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    out = tmp_path / arguments.pop("out", "new.safetensors")
    with pytest.raises(UserError, match=message):
        export(model, out=out, **arguments)


def test_the_command_takes_no_pictures_and_refuses_rank_0(model: Path, base: Path, tmp_path: Path, capsys: Any) -> None:
    argv = ["export", str(model), "--to", "lora", "--base", str(base), "--layers", "attention"]
    given = [*argv, "--out", str(tmp_path / "new.safetensors")]
    assert program.main("handtrain", "", COMMANDS, [*given, "--rank", "0"]) == 2
    assert "--rank 0 must be at least 1" in capsys.readouterr().err
    assert program.main("handtrain", "", COMMANDS, [*given, "--images", "0"]) == 0
    printed = capsys.readouterr().out
    assert "rank 32 on" in printed and "pictures differ" not in printed


def test_adapters_of_another_run_are_refused(lora_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lora_run, tmp_path / "run"))
    (copy / "lora.safetensors").unlink()
    with pytest.raises(UserError, match=r"missing or damaged: give --rank N"):
        export(copy, to="lora", out=tmp_path / "new.safetensors")


def test_pickles_are_converted_without_running_code(base: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    weights = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    torch.save({"state_dict": weights, "global_step": 3}, tmp_path / "model.ckpt")
    export(tmp_path / "model.ckpt", to="single-file", out=tmp_path / "model.safetensors")
    converted = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(converted[name], weights[name]) for name in weights)
    torch.save({"state_dict": weights}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)  # torch below 1.6
    export(tmp_path / "old.ckpt", to="single-file", out=tmp_path / "old.safetensors")
    converted = load_file(tmp_path / "old.safetensors")
    assert all(torch.equal(converted[name], weights[name]) for name in weights)
    torch.save({"state_dict": weights, "callback": Harmful()}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="cannot be read as weights alone"):
        export(tmp_path / "bad.ckpt", to="single-file", out=tmp_path / "bad.safetensors")
    assert not (tmp_path / "ran").exists()

    pickled = Path(shutil.copytree(base, tmp_path / "pickled"))
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")):
        (file,) = (pickled / part).glob("*.safetensors")
        torch.save(load_file(file), pickled / part / f"{stem}.bin")
        file.unlink()
    with pytest.raises(UserError, match=rf"`handtrain export {pickled} --to diffusers --out NEW`"):
        open_base(pickled)
    export(pickled, to="diffusers", out=tmp_path / "whole")
    for part in NETWORKS:
        ours, reference = (open_base(each).network(part).state_dict() for each in (tmp_path / "whole", base))
        assert all(torch.equal(ours[name], reference[name]) for name in reference)


def test_parts_in_different_number_formats_are_read_as_float32(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    mixed, types = Path(shutil.copytree(base, tmp_path / "mixed")), (torch.float16, torch.bfloat16)
    for part, dtype in zip(("unet", "text_encoder"), types, strict=True):
        (file,) = (mixed / part).glob("*.safetensors")
        save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    export(mixed, to="single-file", out=tmp_path / "one.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "one.safetensors").values()} == {torch.float32}
    for part, dtype in (("vae", torch.float32), ("unet", types[0]), ("text_encoder", types[1])):
        ours, whole = (open_base(each).network(part).state_dict() for each in (mixed, base))
        assert all(torch.equal(ours[name], tensor.to(dtype).to(tensor.dtype)) for name, tensor in whole.items())


def test_a_lora_file_in_half_precision_has_half_the_size_and_the_same_values(lora_run: Path, tmp_path: Path) -> None:
    files = [tmp_path / "whole.safetensors", tmp_path / "half.safetensors"]
    for file, precision in zip(files, (None, "fp16"), strict=True):
        export(lora_run, to="lora", out=file, lora_precision=precision)  # type: ignore[arg-type]
    whole, half = map(load_file, files)
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    assert all(torch.equal(whole[name].half(), half[name]) for name in whole)
    with pytest.raises(UserError, match="--lora-precision is for --to lora"):
        export(lora_run, to="fp16", out=tmp_path / "no", lora_precision="fp16")
