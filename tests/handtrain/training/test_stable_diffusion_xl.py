"""Stable Diffusion XL: training, resuming and the model, on a tiny base of the real classes."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from handdata.errors import UserError
from handtrain import Hand1000Pipeline, Hand1000XLPipeline
from handtrain.generation.generate import generate, load_pipeline
from handtrain.model.backbones import stable_diffusion_xl
from handtrain.model.base import open_base
from handtrain.options import GenerateOptions
from tests.handtrain import tiny
from tests.handtrain.tiny_xl import POOLED, write_xl_base
from tests.handtrain.training.killing import killed_at_the_fourth_step
from tests.handtrain.training.test_recomputed import BATCH, COUNT, LR2, LR3, STEPS, _draws, two_stages

pytestmark = pytest.mark.slow  # a minute together
Jobs = Callable[..., Any]


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xl_base(tmp_path_factory.mktemp("xl") / "base")


def _inputs(base: Path, rows: list[dict[str, Any]]) -> tuple[torch.Tensor, ...]:
    """Return latents' mean and deviation, the joined embeddings (n, 77, 24) and the pooled ones (n, 12)."""
    vae, pixels = AutoencoderKL.from_pretrained(base / "vae"), []
    for row in rows:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).resize((22, 16), Image.Resampling.BILINEAR)
        square = np.asarray(image.crop((3, 0, 19, 16)), dtype=np.float32)
        pixels.append(torch.from_numpy(square / 127.5 - 1).permute(2, 0, 1))
    states = []
    with torch.no_grad():
        latents = vae.encode(torch.stack(pixels)).latent_dist
        for part, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
            tokenizer = CLIPTokenizer.from_pretrained(base / f"tokenizer{part}")
            texts = [row["text"] for row in rows]
            ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            answer = kind.from_pretrained(base / f"text_encoder{part}")(ids, output_hidden_states=True)
            states.append(answer.hidden_states[-2])
    return latents.mean, latents.std, torch.cat(states, dim=2), answer.text_embeds


def _recomputed(base: Path, rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Return the mean losses of ten steps of Stage II on all images, then of Stage III on batches of two."""
    mean, deviation, texts, pooled = _inputs(base, rows)
    unet = UNet2DConditionModel.from_pretrained(base / "unet").train().requires_grad_(False)
    schedule = DDPMScheduler.from_pretrained(base / "scheduler")
    velocity = json.loads((base / "scheduler" / "scheduler_config.json").read_text())["prediction_type"] != "epsilon"
    sizes = torch.tensor([20.0, 28, 0, 3, 16, 16])  # of the picture, the crop's corner, the square

    def loss(part: str, keys: list[tuple[int, int]], embeddings: torch.Tensor) -> torch.Tensor:
        places = [place for place, _ in keys]
        normal, noise, times = _draws(part, [(rows[place]["image_id"], step) for place, step in keys])
        latents = (mean[places] + deviation[places] * normal) * 0.13025
        noisy = schedule.add_noise(latents, noise, times)
        kept = schedule.alphas_cumprod[times].reshape(-1, 1, 1, 1)
        target = kept.sqrt() * noise - (1 - kept).sqrt() * latents if velocity else noise
        added = {"text_embeds": pooled[places], "time_ids": sizes.repeat(len(places), 1)}
        return (unet(noisy, times, embeddings, added_cond_kwargs=added).sample - target).square().flatten(1).mean(1)

    return two_stages(unet, texts, loss)


@pytest.fixture(scope="module")
def velocity(xl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same base with a schedule of v-prediction."""
    copy = Path(shutil.copytree(xl, tmp_path_factory.mktemp("velocity") / "base"))
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    return copy


@pytest.mark.parametrize("kind", ["xl", "velocity"])
def test_ten_losses_of_both_stages_equal_those_of_plain_torch(
    request: pytest.FixtureRequest, kind: str, train: Jobs, tmp_path: Path
) -> None:
    base = request.getfixturevalue(kind)
    run = train(
        tmp_path / "run", "paper", base=base, lam=1.0, embedding_steps=STEPS, embedding_lr=LR2, unet_batch=BATCH,
        unet_lr=LR3, unet_epochs=STEPS * BATCH // COUNT,
    )  # fmt: skip
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    logged = [[line["loss"] for line in lines if line.get("stage") == stage and "loss" in line] for stage in (2, 3)]
    rows = [tiny.row(f"train-{number:03d}", number) for number in range(COUNT)]
    np.testing.assert_allclose(logged, _recomputed(base, rows), rtol=0, atol=1e-5)
    assert np.shape(logged) == (2, STEPS) and not np.allclose(logged[1], logged[1][0], atol=1e-3)
    stored = DDPMScheduler.from_pretrained(run.model / "scheduler").config.prediction_type
    assert stored == ("v_prediction" if kind == "velocity" else "epsilon")


PLUS: dict[str, Any] = {
    "preset": "plus", "unet_batch": 4, "unet_samples": 24, "unet_warmup": 1, "unet_lr": 1e-3, "prior": 0.25,
    "prior_images": 3, "crop": "center", "pose": "map,time,tokens", "text_dropout": 0.3, "checkpoint_minutes": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def posed(xl: Path, train: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(train(tmp_path_factory.mktemp("posed") / "run", **{**PLUS, "base": xl}).model)


def test_a_run_that_was_stopped_resumes_to_the_same_weights(
    xl: Path, posed: Path, train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = killed_at_the_fourth_step(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", **{**PLUS, "base": xl})
    model = train(tmp_path / "run", **{**PLUS, "base": xl}).model
    assert len(steps) == 4 + 3, "six steps, of which the first three are not repeated"
    for name in ("unet/diffusion_pytorch_model.safetensors", "pose.safetensors"):
        first, second = load_file(posed / name), load_file(model / name)
        assert all(torch.equal(first[key], second[key]) for key in first), name


@pytest.fixture(scope="module")
def plain(xl: Path, train: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without gesture feature and poses: plain diffusers can do all that it does."""
    run = tmp_path_factory.mktemp("plain") / "run"
    return Path(train(run, "smoke", base=xl, lam=1.0, unet_lr=1e-2, unet_batch=2).model)


def _pixels(image: Any) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float64)


@pytest.mark.parametrize("kind", [StableDiffusionXLPipeline, Hand1000XLPipeline])
def test_plain_diffusers_draws_the_pixels_of_generate(plain: Path, tmp_path: Path, kind: Any) -> None:
    text = "a person making phone call hand gesture"
    out = generate(plain, prompt=text, out=tmp_path / "images", seeds=(3,), steps=4, device="cpu", progress=False)
    (file,) = out.glob("*.png")
    pipeline = kind.from_pretrained(plain)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(3)
    drawn = pipeline(text, num_inference_steps=4, guidance_scale=3.0, generator=noise).images[0]
    with Image.open(file) as ours:
        assert np.abs(_pixels(ours) - _pixels(drawn)).mean() <= 1
    assert _pixels(drawn).std() > 5


def test_the_vae_decodes_in_float32_where_the_other_networks_compute_in_16_bits(plain: Path, tmp_path: Path) -> None:
    pictures = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        generate(plain, prompt="a", out=out, steps=4, device="cpu", precision=precision, progress=False)
        with Image.open(next(out.glob("*.png"))) as image:
            pictures.append(_pixels(image))
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 8
    base = open_base(plain)
    pipeline = load_pipeline(base, {}, GenerateOptions(precision="bf16"), torch.device("cpu"))
    assert (pipeline.vae.dtype, pipeline.unet.dtype) == (torch.float32, torch.bfloat16)
    fixed = replace(base, configs={**base.configs, "vae": {**base.configs["vae"], "force_upcast": False}})
    pipeline = load_pipeline(fixed, {}, GenerateOptions(precision="bf16"), torch.device("cpu"))
    assert pipeline.vae.dtype == torch.bfloat16


def test_samples_of_adapters_in_bf16_are_those_of_float32_but_for_rounding(
    xl: Path, train: Jobs, tmp_path: Path
) -> None:
    samples = []
    for precision in ("fp32", "bf16"):
        changes = {"base": xl, "lora_rank": 2, "precision": precision, "unet_lr": 1e-3, "sample_every": 100}
        run = train(tmp_path / precision, **{**PLUS, **changes})
        samples.append([_pixels(Image.open(file)) for file in sorted((run.path / "samples").glob("*.png"))])
    assert len(samples[0]) == 2
    for exact, rough in zip(*samples, strict=True):
        assert 0 < np.abs(exact - rough).mean() < 3


def test_a_model_with_poses_draws_them_and_loads_again(posed: Path, tmp_path: Path) -> None:
    first = Hand1000XLPipeline.from_pretrained(posed)
    first.set_progress_bar_config(disable=True)
    first.save_pretrained(tmp_path / "again")
    second = Hand1000XLPipeline.from_pretrained(tmp_path / "again")
    second.set_progress_bar_config(disable=True)

    def draw(pipeline: Any, **more: Any) -> np.ndarray:
        noise = torch.Generator().manual_seed(0)
        return _pixels(pipeline("a person", num_inference_steps=2, generator=noise, **more).images[0])

    pose = first.gesture.own_poses("call")[0]
    asked = draw(first, poses=pose, pose_guidance=6.0)
    np.testing.assert_array_equal(asked, draw(second, poses=pose, pose_guidance=6.0))
    assert np.abs(asked - draw(first)).mean() > 0.1, "the pose changes the picture"


def test_equal_scales_of_text_and_pose_are_one_condition(posed: Path) -> None:
    pipeline = Hand1000XLPipeline.from_pretrained(posed)
    pipeline.set_progress_bar_config(disable=True)
    pose = pipeline.gesture.own_poses("call")[0]
    images = [
        pipeline(
            "a person", num_inference_steps=2, generator=torch.Generator().manual_seed(0), guidance_scale=2.0,
            poses=pose, pose_guidance=scale,
        ).images[0]
        for scale in (2.0, 2.0001)
    ]  # fmt: skip
    assert np.abs(_pixels(images[0]) - _pixels(images[1])).mean() < 0.1, "three branches are the sum of two"


def test_the_class_of_another_kind_of_model_is_named(plain: Path) -> None:
    with pytest.raises(ValueError, match="is a StableDiffusionXLPipeline: load it with Hand1000XLPipeline"):
        Hand1000Pipeline.from_pretrained(plain)


def test_the_flat_layer_is_refused_with_its_size(xl: Path, train: Jobs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--fusion flat is not for a StableDiffusionXLPipeline.*--fusion token"):
        train(tmp_path / "run", "paper", base=xl)


def test_an_empty_text_is_zeros_where_the_model_says_so(xl: Path) -> None:
    base = open_base(xl)
    encoders, tokenizers = base.text_encoders(), base.tokenizers()
    for zeros in (True, False):
        ids = stable_diffusion_xl.ids(tokenizers, "", 77, {"force_zeros_for_empty_prompt": zeros})
        encoded = stable_diffusion_xl.encode(encoders, ids)
        assert {name: tuple(tensor.shape) for name, tensor in encoded.items()} == {
            "embedding": (77, 24), "text_embeds": (POOLED,),
        }  # fmt: skip
        assert all(bool((tensor == 0).all()) == zeros for tensor in encoded.values())


def test_text_encoders_that_do_not_fit_the_unet_are_refused(xl: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(xl, tmp_path / "base"))
    file = copy / "text_encoder_2" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "projection_dim": POOLED + 1}))
    with pytest.raises(UserError, match="text_encoder_2"):
        open_base(copy)


@pytest.mark.parametrize("pipeline", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLPipeline"])
def test_the_refiner_is_refused_by_its_name(xl: Path, tmp_path: Path, pipeline: str) -> None:
    """The shape of the published one: only the second text encoder, and an aesthetic score instead of a size."""
    copy = Path(shutil.copytree(xl, tmp_path / "refiner"))
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(copy / part)
    file = copy / "model_index.json"
    none = {"_class_name": pipeline, "text_encoder": [None, None], "tokenizer": [None, None]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **none, "requires_aesthetics_score": True}))
    file = copy / "unet" / "config.json"
    unet = {
        "cross_attention_dim": 1280, "projection_class_embeddings_input_dim": 2560, "addition_time_embed_dim": 256,
        "block_out_channels": [384, 768, 1536, 1536],
    }  # fmt: skip
    file.write_text(json.dumps({**json.loads(file.read_text()), **unet}))
    with pytest.raises(UserError, match=r"is the refiner of Stable Diffusion XL.*: name the base model"):
        open_base(copy)


def test_the_network_of_the_published_configuration_has_its_number_of_weights() -> None:
    config = {
        "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 2,
        "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    unet = stable_diffusion_xl.NETWORKS["unet"].empty(config)
    assert sum(weight.numel() for weight in unet.parameters()) == 2_567_463_684
