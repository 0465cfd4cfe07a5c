"""One command from a recipe to a dataset: killed, under Ray, in another folder, with a new prompt, on photographs."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.chat_server import chat_server
from tests.photos import PHOTOS, needs_photos

KILLS = 20
RECIPE = """
name = "small"
source = {kind = "render"}
render = {train = 6, validation = 2, test = 3, size = 128}
select = {gestures = ["call", "ok"], train = 4, validation = 1, test = 2, spare = 0.5, max_per_subject = 0}
caption = {model = "mini-blip"}
"""

pytestmark = pytest.mark.slow


def answer(request: dict[str, Any]) -> tuple[int, Any]:
    """Answer as a useless model, so that every text comes from the template."""
    return 200, {"choices": [{"message": {"content": "no"}, "finish_reason": "stop"}]}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    with chat_server(answer) as server:
        path.write_text(RECIPE + f'rewrite = {{model = "any", server = "{server.url}", retries = 0}}\n')
        yield path


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("undisturbed") / "build"
    finish(recipe, build)
    return build


def start(recipe: Path, build: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "handdata", "build", str(recipe), "--out", str(build), *flags]
    environment = {**os.environ, "OPENAI_API_KEY": "", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def finish(recipe: Path, build: Path, *flags: str) -> str:
    process = start(recipe, build, *flags)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-2000:]
    return output


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def finished_parts(build: Path) -> int:
    """Return how many of the seven parts exist: one shard of each of six stages, and the dataset."""
    return len(list(build.glob("*/0*.parquet"))) + (build / "dataset").is_dir()


def test_twenty_kills_at_random_moments_end_in_the_same_dataset_in_another_folder(recipe, undisturbed, tmp_path):
    """Each run resumes where the last was killed; every third kill comes just after another part was finished."""
    chance, build, reached = random.Random(0), tmp_path / "elsewhere" / "killed", []
    for kill in range(KILLS):
        awaited = finished_parts(build) + (kill % 3 == 2)
        process = start(recipe, build)
        while finished_parts(build) < awaited and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05 if kill % 3 == 2 else 1))
        if process.poll() is None:
            os.killpg(process.pid, 9)  # the workers too
            reached.append(finished_parts(build))
        process.communicate()
    print(f"finished parts at the kills: {reached}")
    assert len(reached) > KILLS / 2 and len(set(reached)) >= 3, "the kills came too late, or at one stage only"
    finish(recipe, build)
    assert contents(build / "dataset") == contents(undisturbed / "dataset")


def test_ray_on_two_workers_gives_the_same_dataset(recipe, undisturbed, tmp_path):
    finish(recipe, tmp_path / "build", "--engine", "ray", "--workers", "2")
    assert contents(tmp_path / "build" / "dataset") == contents(undisturbed / "dataset")


def test_a_second_run_keeps_everything_and_a_new_prompt_redoes_the_texts_only(recipe, tmp_path):
    build = tmp_path / "build"
    finish(recipe, build)
    before = {path: path.stat().st_mtime_ns for path in [*build.glob("*/0*.parquet"), build / "dataset/README.md"]}
    finish(recipe, build)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    prompt = tmp_path / "prompt.txt"
    prompt.write_text((ROOT / "prompts" / "rewrite.txt").read_text() + "\n")
    changed = recipe.read_text().replace("retries = 0", f'retries = 0, prompt = "{prompt}"')
    (tmp_path / "changed.toml").write_text(changed)
    finish(tmp_path / "changed.toml", build)
    redone = {path.parent.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert {"texts", "dataset"} <= redone <= {"texts", "checks", "dataset"}


def test_until_stops_after_its_stage_and_a_dry_run_writes_nothing(recipe, tmp_path):
    output = finish(recipe, tmp_path / "build", "--dry-run")
    assert not (tmp_path / "build").exists() and "assemble" in output
    finish(recipe, tmp_path / "build", "--until", "facts")
    assert (tmp_path / "build/facts").is_dir() and not (tmp_path / "build/landmarks").exists()


@needs_photos
def test_the_reference_photographs_build_and_publish(tmp_path):
    gestures = sorted(path.stem for path in (PHOTOS / "annotations/train").glob("*.json"))
    counted = {name: len(json.loads((PHOTOS / f"annotations/train/{name}.json").read_text())) for name in gestures}
    names = [name for name, count in counted.items() if count][:4]
    text = RECIPE.replace('source = {kind = "render"}', f'source = {{kind = "folder", images = "{PHOTOS}"}}')
    text = re.sub(r"render = .*\n", "", text).replace('["call", "ok"]', json.dumps(names))
    with chat_server(answer) as server:
        path = tmp_path / "photos.toml"
        path.write_text(text + f'rewrite = {{model = "any", server = "{server.url}", retries = 0}}\n')
        output = finish(path, tmp_path / "build")
    publish = [sys.executable, "-m", "handdata", "publish", tmp_path / "build", "--to", tmp_path / "hands"]
    published = subprocess.run(publish, cwd=ROOT, capture_output=True, text=True, check=False)
    assert published.returncode == 0, published.stderr
    assert list((tmp_path / "hands").rglob("train-*.parquet")) and "rows" in published.stdout, output
