"""The shipped models: small, found by name, and good enough for the quickstart."""

from pathlib import Path

import numpy as np
import pytest

from handdata.errors import UserError
from handdata.huggingface import parse_model
from handdata.recipe import CaptionOptions, RenderOptions
from handdata.shipped import resource, shipped_model
from handdata.world.render import draw
from handtrain.mini.colours import agreement
from handtrain.mini.pictures import load_world
from handtrain.model.base import empty_denoiser, open_base

MB = 1e6


def test_all_models_together_are_small():
    files = [path for path in resource("models").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15 * MB
    assert max(path.stat().st_size for path in files) <= 10 * MB
    assert {path.suffix for path in files} <= {".safetensors", ".npz", ".json", ".jsonl", ".txt", ".md"}


def test_a_shipped_model_is_opened_by_its_name_unless_a_folder_has_that_name(tmp_path, monkeypatch):
    assert parse_model("mini-stable-diffusion", "--base") == shipped_model("mini-stable-diffusion")
    with pytest.raises(UserError, match=r"--base big-one is not a folder"):
        parse_model("big-one", "--base")
    with pytest.raises(UserError):
        parse_model("../models", "--base")
    monkeypatch.chdir(tmp_path)
    Path("mini-stable-diffusion").mkdir()
    assert parse_model("mini-stable-diffusion", "--base") == Path("mini-stable-diffusion")


def test_the_base_is_a_stable_diffusion_of_at_most_five_million_weights():
    base = open_base(shipped_model("mini-stable-diffusion"))
    assert base.resolution == 64
    assert base.sizes.tokens == 77
    assert sum(weight.numel() for weight in empty_denoiser(base).parameters()) <= 5_000_000


def test_the_captioner_names_the_colours_of_new_pictures(tmp_path):
    from handdata.texts.captioners.local import LocalCaptioner

    options = RenderOptions(gestures=("call", "palm"), train=0, validation=0, test=8, size=64, seed=77, oddities=False)
    draw(options, tmp_path, progress=False)
    world = load_world(tmp_path)
    captioner = LocalCaptioner(CaptionOptions(model="mini-blip", device="cpu"))
    seen = captioner.describe([np.asarray(picture) for picture in world.pixels.permute(0, 2, 3, 1)])
    captioner.close()
    right = [value for truth, text in zip(world.truths, seen, strict=True)
             for value in agreement(truth["caption"], text).values()]  # fmt: skip
    assert len(right) >= 24
    assert np.mean(right) >= 0.8
