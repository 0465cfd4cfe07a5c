import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handdata.errors import UserError
from handdata.vision.clip import Clip
from handtrain import networks
from handtrain.evaluation import features, hands
from handtrain.evaluation.features import Rows
from handtrain.evaluation.image_sets import Preparation, folder_set
from handtrain.networks import Network
from handtrain.tensor_cache import TensorCache
from tests.handtrain.inceptions import write_inception_fid, write_inception_torchvision

CPU = torch.device("cpu")

TORCH_FIDELITY = """
import sys, numpy as np
from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id_cached
from torch_fidelity import calculate_metrics
one, other, weights, out = sys.argv[1:]
common = dict(input1=one, input2=other, cuda=False, verbose=False, cache=False, save_cpu_ram=True, batch_size=3,
    feature_extractor_weights_path=weights)
extractor = create_feature_extractor("inception-v3-compat", ["2048"], **common)
np.save(out, extract_featuresdict_from_input_id_cached(1, extractor, **common)["2048"].numpy())
print(calculate_metrics(kid=True, kid_subset_size=3, **common)["kernel_inception_distance_mean"])
"""


@pytest.fixture(scope="session")
def fid_weights(tmp_path_factory) -> Path:
    return write_inception_fid(tmp_path_factory.mktemp("weights") / "fid.pth")


@pytest.fixture(scope="session")
def torchvision_weights(tmp_path_factory) -> Path:
    return write_inception_torchvision(tmp_path_factory.mktemp("weights") / "torchvision.pth")


def write_images(folder: Path, count: int, seed: int, side: int = 48) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return folder


def of_folder(folder: Path, network: Network, cache: TensorCache | None = None) -> Rows:
    images, prepare = folder_set(folder, "--fake"), Preparation(0, "center")
    extractor = features.feature_extractor("test", network, "whole", lambda pixels, _: [pixels])
    return features.extract(images, prepare, extractor, cache)


@pytest.mark.slow
def test_features_and_kid_of_images_are_torch_fidelitys(fid_weights, tmp_path):
    from handtrain.evaluation.metrics import kid

    one, other = write_images(tmp_path / "one", 3, 1), write_images(tmp_path / "other", 4, 2)
    out = tmp_path / "features.npy"
    command = [sys.executable, "-c", TORCH_FIDELITY, *map(str, (one, other, fid_weights, out))]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    network = networks.inception_fid(fid_weights, CPU)
    x, y = (of_folder(folder, network).values for folder in (one, other))
    expected = np.load(out)
    assert np.abs(x - expected).max() <= 1e-6 * np.abs(expected).max()
    assert kid(x, y).value == pytest.approx(float(theirs.split()[-1]), rel=1e-4)  # theirs is computed in float32


def test_torchvisions_features_are_those_of_the_released_code(torchvision_weights, tmp_path):
    """Resize(299), CenterCrop(299), ImageNet's normalisation, transform_input on: with torchvision's own transforms."""
    from torchvision import transforms
    from torchvision.models import inception_v3

    pixels = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    model = inception_v3(weights=None, transform_input=True, init_weights=False)
    model.load_state_dict(torch.load(torchvision_weights, weights_only=True))
    model.fc = torch.nn.Identity()
    steps = [transforms.Resize(299), transforms.CenterCrop(299), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        expected = model.eval()(transforms.Compose(steps)(Image.fromarray(pixels))[None])[0].numpy()
    network = networks.inception_torchvision(torchvision_weights, CPU)
    features_of_image = network([hands.fitted(pixels)])[0]
    assert np.abs(features_of_image - expected).max() <= 1e-5 * np.abs(expected).max()


def test_batch_size_changes_features_by_rounding_only(fid_weights, monkeypatch):
    network = networks.inception_fid(fid_weights, CPU)
    images = list(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8))
    whole = network(images)
    monkeypatch.setattr(networks, "BATCH", 2)
    assert np.abs(network(images) - whole).max() <= 1e-5 * np.abs(whole).max()


def test_images_of_several_sizes_keep_their_order():
    network = Network("mean", "none", 1, lambda images: np.array([[image.mean()] for image in images]))
    images = [np.full((side, side, 3), number, np.uint8) for number, side in enumerate([4, 8, 4, 2, 8])]
    assert network(images)[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_weights_that_would_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="safely"):
        networks.inception_fid(tmp_path / "evil.pth", CPU)
    assert not (tmp_path / "ran").exists()


def test_rows_of_the_same_images_and_rule_are_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD", 2)
    seen = []

    def run(images):
        seen.extend(images)
        return np.array([[image.mean(), image.std()] for image in images])

    folder, network = write_images(tmp_path / "real", 5, 1), Network("two", "none", 2, run)
    cache = TensorCache(tmp_path / "cache")
    first = of_folder(folder, network, cache)
    assert len(seen) == 5
    again = of_folder(folder, network, cache)
    assert len(seen) == 5 and np.array_equal(first.values, again.values) and np.array_equal(first.owner, again.owner)
    Image.new("RGB", (48, 48), "red").save(folder / "004.png")
    of_folder(folder, network, cache)
    assert len(seen) == 6  # only the changed image's shard


def test_a_shards_rows_belong_to_their_images(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD", 2)
    counts = [2, 0, 1, 0, 0]
    images = folder_set(write_images(tmp_path / "fake", 5, 1), "--fake")

    def some(pixels, members):
        numbers = [int(member.name.removesuffix(".png")) for member in members]
        return [np.full((counts[number], 1), number, np.float32) for number in numbers]

    extractor = features.Extractor("test: any", 1, some)
    rows = features.extract(images, Preparation(0, "center"), extractor, TensorCache(tmp_path / "cache"))
    assert rows.owner.tolist() == [0, 0, 2] == rows.values[:, 0].tolist()
    assert rows.counts().tolist() == counts
    assert rows.sums(np.array([1.0, 2.0, 5.0])).tolist() == [3, 0, 5, 0, 0]


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory) -> Path:
    """A CLIP of the real classes with random weights and byte tokens."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from tests.handtrain.tiny import write_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = write_tokenizer(folder / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder / "model")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**size), tokenizer).save_pretrained(folder / "model")
    return folder / "model"


def test_the_clip_score_is_the_models_own_cosine(clip_model, tmp_path):
    from transformers import CLIPModel, CLIPProcessor

    texts = ["a hand", "another, rather longer text"]
    images = [Image.open(file) for file in sorted(write_images(tmp_path / "fake", 2, 1).iterdir())]
    model, processor = CLIPModel.from_pretrained(clip_model), CLIPProcessor.from_pretrained(clip_model)
    with torch.no_grad():
        answer = model(**processor(text=texts, images=images, padding=True, return_tensors="pt"))
    expected = (answer.logits_per_image / model.logit_scale.exp()).diagonal().detach().numpy()
    clip = Clip(str(clip_model), "cpu")
    rows = Rows(clip.images([np.asarray(image) for image in images]), np.arange(2), 2)
    members = [replace(folder_set(tmp_path / "fake", "--fake").members[0], text=text) for text in texts]
    assert features.clip_cosines(clip, rows, members).values[:, 0] == pytest.approx(expected, abs=1e-6)
    assert not len(features.clip_cosines(clip, rows, [members[0], replace(members[1], text=None)]).values)


def test_a_missing_clip_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/clip@main needs the Hub .* HF_HUB_OFFLINE is set"):
        Clip("hf:nowhere/clip", "cpu")
