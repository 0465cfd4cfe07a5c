"""Z-Image, a transformer trained by flow matching: training, resuming, the model and its files, on a tiny base."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from PIL import Image
from safetensors.torch import load_file

from handdata.errors import UserError
from handtrain.exporting.export import export
from handtrain.generation.generate import generate
from handtrain.model.backbones import z_image
from handtrain.model.base import open_base
from tests.handtrain import tiny
from tests.handtrain.tiny_z import CELL_SHIFT, WIDTH, write_z_base
from tests.handtrain.training.killing import killed_at_the_fourth_step
from tests.handtrain.training.test_recomputed import BATCH, COUNT, LR2, LR3, STEPS, _draws, two_stages

pytestmark = pytest.mark.slow  # a minute together
Jobs = Callable[..., Any]
LONGER = 4  # words: texts of 69 to 149 tokens, which the transformer fills up to 96, 128 and 160


@pytest.fixture(scope="module")
def z(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_z_base(tmp_path_factory.mktemp("z") / "base")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose texts have different lengths."""
    return tiny.write_dataset(tmp_path_factory.mktemp("texts") / "dataset", longer=LONGER)


def _inputs(base: Path, rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return latents' mean and deviation, and the embeddings as diffusers' pipeline makes them, of several lengths."""
    vae, pixels = AutoencoderKL.from_pretrained(base / "vae"), []
    for row in rows:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).resize((22, 16), Image.Resampling.BILINEAR)
        square = np.asarray(image.crop((3, 0, 19, 16)), dtype=np.float32)
        pixels.append(torch.from_numpy(square / 127.5 - 1).permute(2, 0, 1))
    pipeline = ZImagePipeline.from_pretrained(base)
    with torch.no_grad():
        latents = vae.encode(torch.stack(pixels)).latent_dist
        embeddings, _ = pipeline.encode_prompt([row["text"] for row in rows], do_classifier_free_guidance=False)
    return latents.mean, latents.std, embeddings


def _recomputed(base: Path, rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Return the mean losses of ten steps of Stage II on all images, then of Stage III on batches of two."""
    mean, deviation, embeddings = _inputs(base, rows)
    lengths = [len(embedding) for embedding in embeddings]
    assert len(set(lengths)) == COUNT
    network = ZImageTransformer2DModel.from_pretrained(base / "transformer").train().requires_grad_(False)
    schedule = FlowMatchEulerDiscreteScheduler.from_pretrained(base / "scheduler")

    def loss(part: str, keys: list[tuple[int, int]], every: torch.Tensor) -> torch.Tensor:
        places = [place for place, _ in keys]
        normal, noise, times = _draws(part, [(rows[place]["image_id"], step) for place, step in keys])
        clean = (mean[places] - CELL_SHIFT + deviation[places] * normal) * 0.3611
        moments = schedule.timesteps[999 - times]  # the schedule's times fall
        noisy = schedule.scale_noise(clean, moments, noise)
        images = [image[:, None] for image in noisy]
        given = [text[: lengths[place]] for place, text in zip(places, every, strict=True)]
        answers = network(images, (1000 - moments) / 1000, given, return_dict=False)[0]
        # as in the pipeline: the answer's opposite is the velocity from the image to the noise
        velocity = -torch.stack([answer[:, 0] for answer in answers])
        return (velocity - (noise - clean)).square().flatten(1).mean(1)

    padded = torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True)
    return two_stages(network, padded, loss)


def test_ten_losses_of_both_stages_equal_those_of_plain_torch(
    z: Path, texts: Path, train: Jobs, tmp_path: Path
) -> None:
    run = train(
        tmp_path / "run", "paper", base=z, dataset=texts, lam=1.0, embedding_steps=STEPS, embedding_lr=LR2,
        unet_batch=BATCH, unet_lr=LR3, unet_epochs=STEPS * BATCH // COUNT, lora_rank=0,
    )  # fmt: skip
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    logged = [[line["loss"] for line in lines if line.get("stage") == stage and "loss" in line] for stage in (2, 3)]
    rows = [tiny.row(f"train-{number:03d}", number, longer=LONGER) for number in range(COUNT)]
    np.testing.assert_allclose(logged, _recomputed(z, rows), rtol=0, atol=1e-5)
    assert np.shape(logged) == (2, STEPS) and not np.allclose(logged[1], logged[1][0], atol=1e-3)


# all that this kind of model supports, with the base's own pictures, whose texts are shorter
WHOLE: dict[str, Any] = {
    "preset": "plus", "lam": 1.0, "pose": "none", "unet_batch": 4, "unet_samples": 24, "unet_warmup": 1,
    "unet_lr": 1e-2, "prior": 0.25, "prior_images": 3, "crop": "center", "text_dropout": 0.3,
    "checkpoint_minutes": 0.0, "min_snr": 0.0, "sample_every": 6, "sample_steps": 2, "validate_every": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(z: Path, texts: Path, train: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the default for this kind: adapters, merged into the weights."""
    return Path(train(tmp_path_factory.mktemp("whole") / "run", **{**WHOLE, "base": z, "dataset": texts}).model)


def test_a_run_that_was_stopped_resumes_to_the_same_weights(
    z: Path, texts: Path, whole: Path, train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = killed_at_the_fourth_step(monkeypatch)
    given = {**WHOLE, "base": z, "dataset": texts}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", **given)
    model = train(tmp_path / "run", **given).model
    assert len(steps) == 4 + 3, "six steps, of which the first three are not repeated"
    name = "transformer/diffusion_pytorch_model.safetensors"
    first, second = load_file(whole / name), load_file(model / name)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_samples_and_the_validation_loss_are_made(whole: Path) -> None:
    with Image.open(whole.parent / "samples" / "00000006.png") as grid:
        assert np.asarray(grid.convert("RGB")).std() > 20
    lines = [json.loads(line) for line in (whole.parent / "log.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(losses) == 3 and len(set(losses)) == 3


@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast"])
def test_both_kinds_of_bf16_train_as_fp32_does(
    z: Path, texts: Path, train: Jobs, tmp_path: Path, precision: str
) -> None:
    runs = []
    for name in ("fp32", precision):
        given = {"base": z, "dataset": texts, "lam": 1.0, "precision": name, "gradient_checkpointing": name != "fp32"}
        run = train(tmp_path / name, "smoke", **given, unet_batch=2, unet_epochs=2, unet_lr=1e-2, sample_every=100)
        lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
        runs.append([line["loss"] for line in lines if "loss" in line])
    assert len(runs[0]) == len(runs[1]) > 3 and runs[0] != runs[1]
    np.testing.assert_allclose(runs[0], runs[1], rtol=0.05)
    samples = [sorted((tmp_path / name / "samples").glob("*.png")) for name in ("fp32", precision)]
    assert len(samples[0]) == 2
    for exact, rough in zip(*samples, strict=True):
        assert np.abs(_pixels(Image.open(exact)) - _pixels(Image.open(rough))).mean() < 3


def test_adapters_are_trained_unless_it_is_said_otherwise(z: Path, whole: Path) -> None:
    record = json.loads((whole.parent / "run.json").read_text())
    assert record["config"]["options"]["lora_rank"] == 16
    names = {name.partition(".lora_")[0] for name in load_file(whole.parent / "lora.safetensors")}
    attentions = ("layers.0", "layers.1", "noise_refiner.0", "context_refiner.0")
    targets = ("to_q", "to_k", "to_v", "to_out.0")
    assert names == {f"transformer.{place}.attention.{target}" for place in attentions for target in targets}
    before, after = (load_file(folder / "transformer/diffusion_pytorch_model.safetensors") for folder in (z, whole))
    changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name.removeprefix("transformer.") for name in names}


def test_the_rate_of_adapters_that_nobody_asked_for_is_theirs(z: Path, train: Jobs, tmp_path: Path) -> None:
    for name, given, rate in (("of adapters", {}, 1e-4), ("given", {"unet_lr": 3e-5}, 3e-5)):
        run = train(tmp_path / name, "smoke", base=z, lam=1.0, **given)
        options = json.loads((run.path / "run.json").read_text())["config"]["options"]
        assert (options["lora_rank"], options["unet_lr"]) == (16, rate)


def _pixels(image: Any) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float64)


def _draw(pipeline: Any, text: str = "a person making phone call hand gesture", seed: int = 3) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(seed)
    size = {"height": tiny.SIDE, "width": tiny.SIDE}
    drawn = pipeline(text, num_inference_steps=4, guidance_scale=2.0, generator=noise, negative_prompt="", **size)
    return _pixels(drawn.images[0])


@pytest.mark.parametrize("trained", [True, False])
def test_plain_diffusers_draws_the_pixels_of_generate(z: Path, whole: Path, tmp_path: Path, trained: bool) -> None:
    model, text = whole if trained else z, "a person making phone call hand gesture"
    out = generate(model, prompt=text, out=tmp_path / "images", seeds=(3,), steps=4, device="cpu", progress=False)
    with Image.open(next(out.glob("*.png"))) as ours:
        drawn = _draw(ZImagePipeline.from_pretrained(model))
        assert np.abs(_pixels(ours) - drawn).mean() <= 1
    assert drawn.std() > 5
    settings = json.loads((out / "generation.json").read_text())
    assert settings["sampler"] == "euler"


def test_pictures_of_a_batch_are_those_of_single_ones(whole: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a man\na woman in a very long red coat making phone call hand gesture in a wide green garden\n")
    pictures = []
    for batch in (1, 2):
        out = generate(
            whole, prompts=prompts, out=tmp_path / str(batch), steps=3, batch=batch, device="cpu", progress=False
        )
        files = sorted(out.glob("*.png"))
        pictures.append([_pixels(Image.open(file)) for file in files])
    assert len(pictures[0]) == 2
    np.testing.assert_allclose(pictures[0], pictures[1], atol=1)


def test_the_lora_file_gives_the_models_pictures(z: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "call.safetensors"
    export(whole, to="lora", out=out, base=z)
    with_file = ZImagePipeline.from_pretrained(z)
    before = _draw(with_file)
    with_file.load_lora_weights(out)
    merged = _draw(ZImagePipeline.from_pretrained(whole))
    assert np.abs(_draw(with_file) - merged).mean() <= 2
    assert np.abs(before - merged).mean() > 2, "the change can be seen"


def test_factors_of_all_layers_give_nearly_the_models_pictures(z: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "call.safetensors"
    made = export(whole, to="lora", out=out, base=z, rank=16, layers="all", images=1, device="cpu")
    assert "pictures differ" in str(made)
    with_file = ZImagePipeline.from_pretrained(z)
    with_file.load_lora_weights(out)
    assert np.abs(_draw(with_file) - _draw(ZImagePipeline.from_pretrained(whole))).mean() <= 2


def test_the_card_and_the_header_name_the_licence_and_diffusers_pipeline(z: Path, whole: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    card = (whole / "README.md").read_text()
    assert "license: apache-2.0" in card and "ZImagePipeline.from_pretrained" in card
    assert not any(word in card for word in ("OpenRAIL", "Stable Diffusion", "UNet", "attachment A"))
    assert not (whole / "pipeline.py").exists()
    with safe_open(whole.parent / "lora.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["modelspec.architecture"] == "z-image/lora"
    assert metadata["modelspec.license"] == "Apache-2.0"
    assert not any(name.startswith("ss_") for name in metadata)


def test_half_precision_is_a_folder_of_the_same_kind(whole: Path, tmp_path: Path) -> None:
    export(whole, to="fp16", out=tmp_path / "half")
    pipeline: Any = ZImagePipeline.from_pretrained(tmp_path / "half", torch_dtype=torch.float16)
    assert pipeline.transformer.dtype == pipeline.text_encoder.dtype == torch.float16
    tokenizer = pipeline.tokenizer
    assert tokenizer.chat_template == ZImagePipeline.from_pretrained(whole).tokenizer.chat_template


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "paper"}, "--fusion flat is not for a ZImagePipeline.*use --lam 1"),
        ({"preset": "smoke", "lam": 1.0, "min_snr": 5.0}, "--min-snr is not for a ZImagePipeline"),
        ({"preset": "plus", "lam": 1.0}, "--pose is not for a ZImagePipeline"),
        ({"preset": "smoke", "lam": 1.0, "compile": "blocks"}, "--compile is not for a ZImagePipeline"),
    ],
)
def test_options_without_a_place_in_this_kind_are_refused(
    z: Path, train: Jobs, tmp_path: Path, changes: Any, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(tmp_path / "run", **{**changes, "base": z})


@pytest.mark.parametrize(("given", "words"), [({"sampler": "reference"}, "--sampler"), ({"eta": 0.5}, "--eta")])
def test_samplers_of_noise_schedules_are_refused(z: Path, tmp_path: Path, given: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"{words}.* is not for a ZImagePipeline"):
        generate(z, prompt="a", out=tmp_path / "images", device="cpu", **given)


@pytest.mark.parametrize(
    "given", [{"to": "single-file"}, {"to": "lora", "lora_format": "kohya"}], ids=["single-file", "kohya"]
)
def test_formats_with_names_of_a_unet_are_refused(whole: Path, tmp_path: Path, given: Any) -> None:
    with pytest.raises(UserError, match="has the names of a UNet"):
        export(whole, out=tmp_path / "one.safetensors", **given)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "scheduler: its use_dynamic_shifting"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "scheduler: it is a DDIMScheduler"),
        ("scheduler/scheduler_config.json", {"shift": 0}, "scheduler: its shift 0"),
        ("text_encoder/config.json", {"hidden_size": 2 * WIDTH}, "text_encoder: "),
        ("text_encoder/config.json", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "its rotations"),
        ("transformer/config.json", {"axes_lens": [512, 16, 16]}, "its axes_lens"),
        ("vae/config.json", {"sample_size": 18}, "the sample_size 18 of its VAE"),
    ],
)
def test_another_model_is_refused(z: Path, tmp_path: Path, file: str, changes: Any, words: str) -> None:
    copy = Path(shutil.copytree(z, tmp_path / "base"))
    config = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=words):
        open_base(copy)


def test_a_tokenizer_without_chat_template_is_refused(z: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(z, tmp_path / "base"))
    (copy / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="tokenizer: it has no chat template"):
        open_base(copy)


def test_older_files_with_the_rotations_as_a_number_are_the_same_model(z: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(z, tmp_path / "base"))
    file = copy / "text_encoder" / "config.json"
    config = json.loads(file.read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    file.write_text(json.dumps({**config, "rope_theta": theta, "rope_scaling": None}))
    weights = copy / "text_encoder" / "model.safetensors"
    from safetensors.torch import save_file

    save_file({f"model.{name}": tensor for name, tensor in load_file(weights).items()}, weights)
    encoded = []
    for folder in (z, copy):
        base = open_base(folder)
        ids = base.backbone.ids(base.tokenizers(), "a hand", 512, {})
        encoded.append(base.backbone.encode(base.text_encoders(), ids)["embedding"])
    assert torch.equal(*encoded)


def test_the_network_of_the_published_configuration_has_its_number_of_weights() -> None:
    config = {
        "all_patch_size": [2], "all_f_patch_size": [1], "in_channels": 16, "dim": 3840, "n_layers": 30,
        "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "norm_eps": 1e-5, "qk_norm": True,
        "cap_feat_dim": 2560, "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
    }  # fmt: skip
    network = z_image.NETWORKS["transformer"].empty(config)
    assert sum(weight.numel() for weight in network.parameters()) == 6_154_908_736


def test_texts_of_the_validation_split_change_nothing_of_stage_2(
    z: Path, train: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process without that split, or a run resumed without it, has shards of the same shape."""
    dataset = tiny.write_dataset(tmp_path / "dataset", train=2, validation=4, longer=LONGER)
    given = {"base": z, "dataset": dataset, "lam": 1.0, "lora_rank": 2, "preset": "smoke", "embedding_batch": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handtrain.training.train.export", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", **given, validate_every=1)
    train(tmp_path / "run", **given, validate_every=0)
    assert "damaged" not in capsys.readouterr().err
    whole = train(tmp_path / "without", **given, validate_every=0).model
    name = "transformer/diffusion_pytorch_model.safetensors"
    first, second = load_file(whole / name), load_file(tmp_path / "run" / "model" / name)
    assert all(torch.equal(first[key], second[key]) for key in first)
