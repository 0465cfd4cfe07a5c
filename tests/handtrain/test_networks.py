"""The networks of the modern distances, from real files of the real classes with few random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handdata.errors import UserError
from handtrain import networks
from handtrain.evaluation.evaluate import evaluate
from tests.handtrain.evaluation.test_features import write_images

CPU = torch.device("cpu")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
CLIP = np.array([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory) -> Path:
    """A DINOv2 whose position embeddings are, as in the released one, for images of another size than 224 px."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SMALL, image_size=280, patch_size=14))
    for parameter in model.encoder.parameters():
        parameter.data *= 10  # at their first size the class token hardly sees the patches
    torch.nn.init.normal_(model.embeddings.position_embeddings, std=0.5)
    folder = tmp_path_factory.mktemp("dino") / "model"
    model.save_pretrained(folder)
    return folder


def write_clip(folder: Path, side: int = 336) -> Path:
    """Write a whole CLIP, as the Hub has it: the text half is not used."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    small = {**SMALL, "intermediate_size": 16}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 50},
        vision_config={**small, "image_size": side, "patch_size": 56, "projection_dim": 12},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "model")


def photograph(width: int, height: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def prepared(pixels: np.ndarray, side: int, statistics: np.ndarray) -> torch.Tensor:
    """Return the middle square as the published programs prepare it, (1, 3, side, side)."""
    image, (width, height) = Image.fromarray(pixels), pixels.shape[1::-1]
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC)
    normalised = (np.asarray(square) / 255 - statistics[0]) / statistics[1]
    return torch.from_numpy(normalised).permute(2, 0, 1)[None].float()


def test_dinov2_features_are_its_class_token_with_the_released_positions(dino_folder):
    from transformers import Dinov2Model

    images = [photograph(300, 200), photograph(224, 224, 1), photograph(40, 90, 2)]
    model = Dinov2Model.from_pretrained(dino_folder).eval()
    tokens = model.embeddings.position_embeddings.data[0]  # (401, 16): 20 x 20 patches
    grid = tokens[1:].reshape(20, 20, 16).permute(2, 0, 1).numpy()
    rows = _bicubic(16, 20, 16.1 / 20)  # by hand: row 0 of the released interpolation is not at 20/16
    resized = np.einsum("ij,cjk,lk->cil", rows, grid, rows)  # (16, 16, 16)
    positions = torch.from_numpy(resized).permute(1, 2, 0).reshape(1, 256, 16).float()
    with torch.no_grad():
        expected = []
        for image in images:
            patches = model.embeddings.patch_embeddings(prepared(image, 224, IMAGENET))
            start = torch.cat([model.embeddings.cls_token, patches], dim=1)
            hidden = start + torch.cat([tokens[None, :1], positions], dim=1)
            expected.append(model.layernorm(model.encoder(hidden).last_hidden_state)[0, 0].numpy())
        plain = model(pixel_values=prepared(images[0], 224, IMAGENET)).pooler_output[0].numpy()
    features = networks.dinov2(str(dino_folder), CPU)(images)
    assert features == pytest.approx(np.array(expected), abs=1e-4)
    assert np.abs(features[0] - plain).max() > 1e-3  # transformers' own positions are others


def _bicubic(out: int, size: int, scale: float) -> np.ndarray:
    """Return the matrix (out, size) of torch's bicubic interpolation (A = -0.75) at a scale, edges repeated."""
    matrix = np.zeros((out, size))
    for row in range(out):
        at = (row + 0.5) / scale - 0.5
        whole = int(np.floor(at))
        for column in range(whole - 1, whole + 3):
            x = abs(at - column)
            near = (1.25 * x - 2.25) * x * x + 1
            far = ((-0.75 * x + 3.75) * x - 6) * x + 3
            matrix[row, min(max(column, 0), size - 1)] += near if x <= 1 else far if x < 2 else 0
    return matrix


def test_cmmd_features_are_clips_projections_of_length_one(clip_folder):
    from transformers import CLIPVisionModelWithProjection

    images = [photograph(500, 340), photograph(30, 30, 1)]
    model = CLIPVisionModelWithProjection.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        expected = [model(pixel_values=prepared(image, 336, CLIP)).image_embeds[0].numpy() for image in images]
    expected = np.array([row / np.linalg.norm(row) for row in expected])
    assert networks.cmmd_clip(str(clip_folder), CPU)(images) == pytest.approx(expected, abs=1e-5)


def test_a_model_of_another_kind_or_size_is_an_error_and_not_random_numbers(clip_folder, dino_folder, tmp_path):
    with pytest.raises(UserError, match=r"--dinov2 .* is not a Dinov2Model: it lacks \d+ weights, such as"):
        networks.dinov2(str(clip_folder), CPU)
    with pytest.raises(UserError, match="takes images of 112 px: CMMD is defined with ViT-L/14 at 336 px"):
        networks.cmmd_clip(str(write_clip(tmp_path / "small", 112)), CPU)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((dino_folder / "config.json").read_bytes())
    (damaged / "model.safetensors").write_bytes((dino_folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"--dinov2 .* cannot be loaded"):
        networks.dinov2(str(damaged), CPU)


@pytest.mark.parametrize("content", [b"", b"no weights"], ids=["empty", "text"])
def test_a_damaged_inception_is_one_sentence(tmp_path, content):
    (tmp_path / "inception.pth").write_bytes(content)
    with pytest.raises(UserError, match="does not hold weights that can be read safely"):
        networks.inception_torchvision(tmp_path / "inception.pth", CPU)


def test_evaluate_computes_the_modern_distances_with_intervals(dino_folder, clip_folder, tmp_path):
    sides = {side: write_images(tmp_path / side, 8, seed) for seed, side in enumerate(("real", "fake", "base"))}
    options = {"clip": "none", "variants": "standard", "bootstrap": 5, "device": "cpu", "cache": tmp_path / "cache"}
    models = {"dinov2": str(dino_folder), "cmmd": str(clip_folder)}
    scores = evaluate(**sides, **models, **options)
    assert set(scores.record["weights"]) >= {"dinov2", "cmmd"}
    for name in ("FD-DINOv2", "CMMD", "precision", "recall"):
        score = scores[name]
        assert score.interval[0] <= score.value <= score.interval[1] and score.n == 8, name
        assert score.difference.value == pytest.approx(score.value - score.base.value), name
        assert score.difference.interval is not None, name
    same = evaluate(real=sides["real"], fake=sides["real"], **models, **options)
    values = [same[name].value for name in ("FD-DINOv2", "CMMD", "precision", "recall")]
    assert values == pytest.approx([0, 0, 1, 1], abs=1e-6)
    assert same["precision"].interval[0] < 0.7 and same["precision"].interval[1] == 1  # 8 of 8 is not certainty


def test_without_their_models_the_distances_say_why_and_come_last(tmp_path):
    sides = {side: write_images(tmp_path / side, 4, seed) for seed, side in enumerate(("real", "fake"))}
    scores = evaluate(
        **sides,
        cmmd="hf:openai/clip-vit-large-patch14-336",
        clip="none",
        bootstrap=2,
        variants="standard",
        device="cpu",
    )
    assert scores["FD-DINOv2"].reason == scores["recall-H"].reason
    assert scores["recall-H"].reason.startswith("--dinov2 none: give --dinov2 hf:facebook/dinov2-large")
    assert "HF_HUB_OFFLINE" in scores["CMMD"].reason
    lines = str(scores).splitlines()[1:]
    missing = ["not computed" in line for line in lines]
    assert missing == sorted(missing) and not missing[0] and missing[-1]


@pytest.mark.slow
def test_the_modern_distances_see_the_hands(dino_folder, clip_folder, tmp_path):
    from tests.handtrain.evaluation.test_hands import landmarker, photographs

    landmarker()
    sides = {}
    for side, detail in (("real", 256), ("fake", 64)):
        sides[side] = tmp_path / side
        sides[side].mkdir()
        for file in photographs()[:8]:
            image = Image.open(file).convert("RGB").resize((detail, detail)).resize((256, 256))
            image.save(sides[side] / f"{file.stem}.png")
    models = {"dinov2": str(dino_folder), "cmmd": str(clip_folder)}
    scores = evaluate(**sides, **models, clip="none", variants="standard", bootstrap=5, device="cpu")
    for name in ("FD-DINOv2-H", "CMMD-H", "precision-H", "recall-H"):
        assert scores[name].unit == "hands" and scores[name].value is not None, scores[name]
    assert scores["FD-DINOv2-H"].value > 0 and scores["CMMD-H"].value > 0
