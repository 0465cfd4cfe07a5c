"""The measures of a dataset: CLIP's cosines, the phrase, the hand and its gesture."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handdata.builds.build import Build
from handdata.dataset import evaluate
from handdata.dataset.evaluate import Group, mean_cosine
from handdata.errors import UserError
from handdata.recipe import EvaluateOptions
from handdata.stages import assemble
from tests import ROOT
from tests.finished import QUIET, finished_build
from tests.hub_server import HubServer

COUNTS = {"train": 4, "validation": 0, "test": 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("evaluate")
    build = finished_build(folder / "build", COUNTS)
    assemble.run(build, Build.open(build).recipe, QUIET)
    Build.open(build).publish(str(folder / "hands"))
    return str(folder / "hands")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """A CLIPModel of a few thousand random weights, saved with its processor as the real one is."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    layer = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **layer,
            "vocab_size": len(words),
            "max_position_embeddings": 77,
            "eos_token_id": 1,
            "bos_token_id": 0,
        },
        vision_config={**layer, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


def test_without_weights_the_cosines_are_not_computed_and_the_reason_is_given(dataset, tmp_path):
    result = evaluate.evaluate(dataset, EvaluateOptions(clip=str(tmp_path / "missing")), progress=False)
    assert result["gestures"]["all"]["clip_image_caption"] is None
    assert "is neither a folder nor a name" in result["not_computed"]
    assert result["gestures"]["all"]["rows"] == 12 and result["gestures"]["call"]["rows"] == 6
    assert "not computed" in evaluate.text(result) and json.loads(evaluate.as_json(result)) == result


def test_the_cosines_are_those_of_the_model_one_pair_at_a_time(dataset, clip):
    import datasets
    import torch
    from transformers import CLIPModel, CLIPProcessor

    result = evaluate.evaluate(dataset, EvaluateOptions(clip=clip, device="cpu", split="test"), progress=False)
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    rows = datasets.load_dataset(dataset, "call", split="test")
    images, captions = [], []
    with torch.inference_mode():
        for row in rows:
            inputs = processor(text=[row["caption"]], images=row["image"], return_tensors="pt", padding=True)
            both = model(**inputs)
            images.append(both.image_embeds[0])
            captions.append(both.text_embeds[0])
    expected = np.mean([float(a @ b) for a, b in zip(images, captions, strict=True)])
    assert result["gestures"]["call"]["clip_image_caption"] == pytest.approx(expected, abs=1e-5)
    pairs = np.mean([float(a @ b) for a in captions for b in captions])
    assert result["gestures"]["call"]["clip_caption_caption"] == pytest.approx(pairs, abs=1e-5)


def test_the_mean_over_all_pairs_needs_no_matrix():
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert mean_cosine(vectors) == pytest.approx(float((vectors @ vectors.T).mean()), abs=1e-6)
    assert mean_cosine(vectors[:1]) == pytest.approx(1.0)


def test_phrase_hand_and_agreement_are_counted_per_row():
    group = Group()
    row = {"gesture_phrase": "making ok hand gesture", "labels": ["ok"], "gesture_hand": 0, "landmarks_in_box": 0.9}
    group.add({**row, "text": "a man making OK hand gesture."}, "ok", None)
    group.add({**row, "text": "making ok hand gesture, making ok hand gesture", "landmarks_in_box": 0.4}, "ok", None)
    group.add({**row, "text": "a man", "gesture_hand": -1, "landmarks_in_box": None}, "ok", None)
    group.add({**row, "text": "making ok hand gesture", "labels": ["no_gesture"]}, "ok", None)
    scores = group.scores()
    assert (scores["phrase_rate"], scores["hand_found"], scores["gesture_agreement"]) == (0.5, 0.75, 0.25)
    assert math.isclose(scores["landmarks_in_box"], (0.9 + 0.4 + 0.9) / 3)


def test_a_wrong_dataset_is_one_sentence(tmp_path, dataset):
    with pytest.raises(UserError, match="does not contain a dataset: name one of"):
        evaluate.evaluate(str(tmp_path), EvaluateOptions(), progress=False)
    with pytest.raises(UserError, match=r"dataset .*nothing is not a folder"):
        evaluate.open_dataset(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"--split tests: .* has train, test"):
        evaluate.evaluate(dataset, EvaluateOptions(split="tests"), progress=False)


OPEN = """
import sys
from handdata.dataset.evaluate import open_dataset
from handdata.errors import Unfinished, UserError
try:
    print({split: len(rows) for split, rows in open_dataset(sys.argv[1]).items()})
except (Unfinished, UserError) as error:
    print(type(error).__name__, error)
"""  # in a process of its own: the libraries read the Hub's address when they are imported


def opened(name: str, environment: dict[str, str]) -> str:
    """Return the output of OPEN."""
    command = [sys.executable, "-c", OPEN, name]
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "endpoint", "sentence"),
    [
        ("hf:me/nothing", None, "UserError dataset hf:me/nothing is not on the Hub, or private"),
        ("hf:nothing", None, "UserError dataset hf:nothing is not a Hub name"),
        pytest.param(
            "hf:me/hands",
            "http://127.0.0.1:9",
            "Unfinished dataset hf:me/hands is not in the cache and the Hub cannot be",
            marks=pytest.mark.slow,  # the library retries for 24 s
        ),
    ],
)
def test_a_dataset_that_the_hub_does_not_serve_is_one_sentence(tmp_path, name, endpoint, sentence):
    with HubServer() as server:
        answer = opened(name, {"HF_ENDPOINT": endpoint or server.url, "HF_HOME": str(tmp_path)})
    assert answer.startswith(sentence) and answer.count("\n") == 1


@pytest.mark.parametrize("offline", ["1", pytest.param("", marks=pytest.mark.slow)])
def test_a_cached_dataset_opens_without_the_hub(tmp_path, dataset, monkeypatch, offline):
    with HubServer() as server:
        with monkeypatch.context() as patch:
            server.adopt(patch, tmp_path / "publisher")
            Build.open(Path(dataset).with_name("build")).publish("hf:tester/hands")
        environment = server.environment(tmp_path / "reader", token=None)
        first = opened("hf:tester/hands", environment)
    assert first == "{'train': 8, 'test': 4}\n"
    assert opened("hf:tester/hands", {**environment, "HF_HUB_OFFLINE": offline}) == first
