import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from handtrain import Hand1000Pipeline
from handtrain.method.fusion import FlatFusion, mix
from tests.handtrain.tiny import PHRASE, write_base

PROMPT = f"a person {PHRASE}"


def _image(pipeline, **options) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(PROMPT, num_inference_steps=3, generator=generator, output_type="np", **options).images[0]


@pytest.fixture(scope="module")
def pipeline(model: Path) -> Hand1000Pipeline:
    return Hand1000Pipeline.from_pretrained(model)


def test_the_model_loads_in_both_ways_and_generates(model: Path, pipeline: Hand1000Pipeline) -> None:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    plain = StableDiffusionPipeline.from_pretrained(model)
    assert isinstance(pipeline, StableDiffusionPipeline)
    assert type(DiffusionPipeline.from_pretrained(model)) is StableDiffusionPipeline
    ours, theirs = _image(pipeline), _image(plain)
    assert ours.shape == theirs.shape == (16, 16, 3)
    assert not np.allclose(ours, theirs)  # the gesture changes the image
    assert np.array_equal(_image(pipeline, mu=1.0), theirs)  # mu 1 leaves the gesture out
    assert type(plain.scheduler).__name__ == "DDIMScheduler"


def test_mu_is_the_lam_of_the_training_by_default(pipeline: Hand1000Pipeline) -> None:
    assert np.array_equal(_image(pipeline), _image(pipeline, mu=0.7))
    assert not np.array_equal(_image(pipeline), _image(pipeline, mu=0.2))
    with pytest.raises(ValueError, match=r"mu is 1\.5"):
        _image(pipeline, mu=1.5)


def test_only_the_prompts_side_is_mixed_with_the_gesture(model: Path, pipeline: Hand1000Pipeline) -> None:
    about = json.loads((model / "hand1000.json").read_text())
    feature = torch.tensor(about["feature"]["values"])
    text, plain_negative = super(Hand1000Pipeline, pipeline).encode_prompt(PROMPT, "cpu", 1, True)
    layer = FlatFusion(about["fusion"]["seed"], 77, 16, 63)
    with torch.no_grad():
        mixed, negative = pipeline.encode_prompt([PROMPT, "another"], "cpu", 2, True)
    assert mixed.shape == negative.shape == (4, 77, 16)
    assert torch.allclose(mixed[0], mix(text, layer(text, feature), 0.7)[0], atol=1e-6)
    assert torch.equal(mixed[0], mixed[1])  # two images of one prompt
    assert torch.allclose(negative[3:], plain_negative)


def test_a_token_model_generates_and_is_saved_again(token_model: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = Hand1000Pipeline.from_pretrained(token_model)
    assert not np.allclose(_image(pipeline), _image(pipeline, mu=1.0))
    pipeline.save_pretrained(tmp_path)
    assert np.array_equal(_image(Hand1000Pipeline.from_pretrained(tmp_path)), _image(pipeline))
    assert StableDiffusionPipeline.from_pretrained(tmp_path)
    assert json.loads((token_model / "hand1000.json").read_text())["feature"]["kind"] == "normalised"


def test_a_plain_base_is_refused_with_a_hint(base: Path) -> None:
    with pytest.raises(ValueError, match="load it as a StableDiffusionPipeline"):
        Hand1000Pipeline.from_pretrained(base)


def test_a_torch_with_another_stream_is_refused(model: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(model, tmp_path / "model")
    about = json.loads((copy / "hand1000.json").read_text())
    about["fusion"]["first_block_sha256"] = "0" * 64
    (copy / "hand1000.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="its fusion layer cannot be reproduced here"):
        Hand1000Pipeline.from_pretrained(copy)


@pytest.mark.slow
def test_the_one_file_pipeline_works_without_our_packages(
    model: Path, pipeline: Hand1000Pipeline, tmp_path: Path
) -> None:
    script = """
import importlib.util, sys
import numpy as np, torch
sys.modules["handtrain"] = sys.modules["handdata"] = None  # importing them would fail
spec = importlib.util.spec_from_file_location("custom", sys.argv[1] + "/pipeline.py")
custom = importlib.util.module_from_spec(spec)
sys.modules["custom"] = custom
spec.loader.exec_module(custom)
torch.set_num_threads(1)
pipeline = custom.Hand1000Pipeline.from_pretrained(sys.argv[1])
seeded = torch.Generator().manual_seed(0)
images = pipeline(sys.argv[2], num_inference_steps=3, generator=seeded, output_type="np").images
np.save(sys.argv[3], images[0])
"""
    command = [sys.executable, "-c", script, str(model), PROMPT, str(tmp_path / "image.npy")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    assert np.array_equal(np.load(tmp_path / "image.npy"), _image(pipeline))


def test_the_file_has_one_pipeline_class_and_imports_installed_packages(model: Path) -> None:
    from diffusers.utils.dynamic_modules_utils import check_imports

    source = (model / "pipeline.py").read_text()
    assert "from handtrain." not in source
    assert source.count("class Hand1000Pipeline(WithGesture, StableDiffusionPipeline)") == 1
    check_imports(model / "pipeline.py")  # raises for an import that is not installed


def test_the_safety_checker_is_included_unless_switched_off(train, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    guarded = write_base(tmp_path / "guarded", safety_checker=True)
    for wanted in (True, False):
        out = tmp_path / str(wanted)
        train(out, base=guarded, safety_checker=wanted)
        loaded = StableDiffusionPipeline.from_pretrained(out / "model")
        assert (loaded.safety_checker is not None) is wanted
        assert (out / "model" / "safety_checker").exists() is wanted
