"""Train from a Hub and publish to it, with the real clients: base and dataset from it, the model to it and back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.hub_server import HubServer

UPLOAD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
for kind, name, folder in (("model", "tester/base", sys.argv[1]), ("dataset", "tester/hands", sys.argv[2])):
    api.create_repo(name, repo_type=kind)
    api.upload_folder(repo_id=name, repo_type=kind, folder_path=folder)
"""

GENERATE = """
import sys, numpy, torch
from diffusers import StableDiffusionPipeline
from handtrain import Hand1000Pipeline
torch.set_num_threads(1)
images, kinds = [], (Hand1000Pipeline, Hand1000Pipeline, StableDiffusionPipeline)
for kind, name in zip(kinds, (sys.argv[1], sys.argv[2], sys.argv[2]), strict=True):
    pipeline = kind.from_pretrained(name, safety_checker=None)
    seed = torch.Generator().manual_seed(0)
    images.append(pipeline("a man", num_inference_steps=2, generator=seed, output_type="np").images[0])
folder, hub, plain = images
assert numpy.array_equal(folder, hub), "the models from the hub and the folder generate different images"
assert not numpy.array_equal(hub, plain), "the gesture does not change the image"
"""


@pytest.mark.slow
def test_base_dataset_and_model_from_a_hub_generate_the_same_image(base: Path, dataset: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

        def python(*words: object) -> subprocess.CompletedProcess:
            command = [sys.executable, *map(str, words)]
            answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert answer.returncode == 0, answer.stderr[-2000:]
            return answer

        python("-c", UPLOAD, base, dataset)
        gesture = sorted(path.name for path in (dataset / "data").iterdir())[0]
        run = tmp_path / "run"
        python(
            *("-m", "handtrain", "train", "--dataset", "hf:tester/hands", "--base", "hf:tester/base"),
            *("--gesture", gesture, "--out", run, "--preset", "smoke", "--no-tensorboard", "--sample-every", 0),
        )
        config = json.loads((run / "run.json").read_text())["config"]
        commits = {name: repo.branches["main"] for (_, name), repo in hub.repos.items()}
        assert config["dataset"]["revision"] == str(commits["tester/hands"])
        assert config["base"]["revision"] == str(commits["tester/base"])
        python("-m", "handtrain", "publish", "--model", run, "--to", "hf:tester/tuned")
        python("-c", GENERATE, run / "model", "tester/tuned")
        assert "hf_tester" not in (run / "run.json").read_text()
