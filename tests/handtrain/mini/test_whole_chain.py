"""From a recipe to the paper's table on the mini world, with the models that ship: build, publish, reproduce."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.chat_server import chat_server

COUNTS = ["--render.train", "12", "--render.validation", "4", "--render.test", "7",
          "--select.train", "8", "--select.validation", "2", "--select.test", "4"]  # fmt: skip

pytestmark = pytest.mark.slow


def answer(request: dict[str, Any]) -> tuple[int, Any]:
    """Answer like a bad model, so that the template inserts the phrase into the mini BLIP's caption."""
    return 200, {"choices": [{"message": {"content": "no"}, "finish_reason": "stop"}]}


def run(*command: str) -> str:
    environment = {**os.environ, "OPENAI_API_KEY": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    with chat_server(answer) as server:
        gestures = ["--select.gestures", "call", "ok", *COUNTS]
        server_flags = ["--rewrite.model", "any", "--rewrite.server", server.url, "--rewrite.retries", "0"]
        run("handdata", "build", "mini", "--out", str(folder / "build"), *gestures, *server_flags)
    run("handdata", "publish", str(folder / "build"), "--to", str(folder / "dataset"))
    return folder / "dataset"


def test_the_papers_table_is_made_by_one_command_that_resumes(dataset, tmp_path):
    out = tmp_path / "paper"
    command = ["handtrain", "reproduce", "--dataset", str(dataset), "--base", "mini-stable-diffusion"]
    command += ["--out", str(out), "--gestures", "call", "ok", "--preset", "mini", "--device", "cpu"]
    command += ["--generate.steps", "4"]
    command += ["--evaluate.clip", "none", "--evaluate.variants", "standard"]
    assert "passes of the UNet" in run(*command, "--dry-run")
    assert not out.exists()
    run(*command)
    page = (out / "report.html").read_text()
    for gesture in ("call", "ok"):
        metrics = json.loads((out / gesture / "evaluation.json").read_text())["metrics"]
        assert metrics["hand-found rate"]["standard"]["n"] == {"real": 4, "fake": 4, "base": 4}
        assert 0 <= metrics["gesture accuracy"]["standard"]["fake"]["value"] <= 1
        assert "not_computed" in metrics["landmark distance"]["standard"]  # 4 images are fewer than 200 hands
        assert f"{gesture}: {gesture}" in page
        assert len(list((out / gesture / "images" / "tuned").glob("*.png"))) == 4
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    run(*command)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == stamps


def test_the_shipped_captioner_and_base_see_and_draw_alike(dataset, tmp_path):
    """The base knows the words that the captioner writes: the walls have the colours in the prompts."""
    command = ["handtrain", "generate", "--model", "mini-stable-diffusion", "--prompts", f"{dataset}:test"]
    flags = ["--gesture", "call", "--seeds", "0", "1", "2", "--steps", "20", "--batch", "12", "--device", "cpu"]
    run(*command, "--out", str(tmp_path / "base"), *flags)
    run("handtrain.mini.colours", str(tmp_path / "base"), "--json-file", str(tmp_path / "colours.json"))
    share = json.loads((tmp_path / "colours.json").read_text())["background"][str(tmp_path / "base")]
    assert share["n"] == 12
    assert share["value"] >= 0.7
