"""The documentation is true: its Python runs, its commands parse, its links and paths lead somewhere.

The slow tests run the Python of README.md and docs/python.md and the programs of docs/examples on the mini world, made
small by the substitutions and flags below. A local server takes the place of the language model, which answers
nothing useful, so that every text comes from the template.
"""

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import handdata.cli
import handtrain.cli
from handdata.cli import program
from handdata.recipe import Recipe
from handtrain.options import EvaluateOptions, GenerateOptions
from handtrain.presets import RunOptions, TrainOptions
from tests import ROOT
from tests.chat_server import chat_server, says

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
PROGRAMS = {"handdata": handdata.cli, "handtrain": handtrain.cli}
# The option classes whose fields a function accepts as keywords.
CHANGES = {
    "handdata.Build.start": [Recipe],
    "handtrain.train": [TrainOptions, RunOptions],
    "handtrain.generate": [GenerateOptions],
    "handtrain.evaluate": [EvaluateOptions],
}
ATTRIBUTES = {"path", "recipe"}  # of a `Build`, besides its methods

# Text of a page and its replacement. A text that the page does not have fails the test.
_SMALL_BUILD = '"train": 12, "validation": 4, "test": 7}'
_FEW_ROWS = '"train": 8, "validation": 2, "test": 4}'
SHRUNK = {
    "README.md": [
        ('"train": 92}', f'{_SMALL_BUILD}, "rewrite": REWRITE'),
        ('"train": 80}', _FEW_ROWS),
        ('preset="mini")', 'preset="mini", unet_epochs=1, embedding_steps=2)'),
        ('out="runs/palm/images/tuned")', 'out="runs/palm/images/tuned", steps=2)'),
        ('fake=images, gesture="palm")', 'fake=images, gesture="palm", clip="none", variants="standard")'),
    ],
    "python.md": [
        ('{"train": 92},', f"{{{_SMALL_BUILD}, rewrite=REWRITE,"),
        ('"train": 80}', _FEW_ROWS),
        ("unet_epochs=100,", "unet_epochs=1, embedding_steps=2,"),
        ('range(14), "batch": 25, "steps": 20', 'range(1), "batch": 4, "steps": 2'),
        ("guidance_scale=3.0)", "guidance_scale=3.0, num_inference_steps=2)"),
        ('gesture="palm", clip="none")', 'gesture="palm", clip="none", variants="standard")'),
    ],
}
BUILD_FLAGS = "--gestures call palm --train 8 --validation 2 --test 4 --out build --to dataset --workers 1"
TRAIN_FLAGS = "--dataset dataset --gesture palm --epochs 1 --images 1 --out run"
SCORE_FLAGS = "--real build/images/palm --fake run/images/tuned --gesture palm --landmarks dataset --json scores.json"


def python_blocks(page: Path) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (program, command, the rest of the line) of every command line in a page's code blocks and code spans."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^(?: {4}|run )?((?:hand|accelerate|torchrun).*)$", text, re.MULTILINE)
    spans = lines + re.findall(r"`([^`\n]+)`", text)
    for span in spans:
        line = span.partition(" #")[0]
        if match := re.match(r"(?:.* -m )?(handdata|handtrain) ([a-z][a-z-]*)(?: (.*))?$", line.strip()):
            yield match[1], match[2], match[3] or ""


@cache
def flags_of(name: str, command: str) -> set[str]:
    """Return the flags that the parser of a command accepts."""
    module, output = PROGRAMS[name], io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):  # tyro ends the process after its help
        program.main(name, module.ABOUT, module.COMMANDS, [command, "--help"])
    return set(re.findall(r"--[a-z][\w.-]*", output.getvalue()))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "quickstart.sh"], ids=lambda path: path.name)
def test_every_command_and_flag_of_a_page_exists(page, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name, command, rest in commands(page):
        assert command in PROGRAMS[name].COMMANDS, f"{page.name}: {name} {command}"
        unknown = set(re.findall(r"(?<!\S)\[?(--[a-z][\w.-]*)", rest)) - flags_of(name, command)
        assert not unknown, f"{page.name}: {name} {command} {rest} has unknown flags {unknown}"


def test_the_commands_of_the_pages_are_found():
    """A pattern that matches nothing would make the test above empty."""
    seen = {(name, command) for page in PAGES for name, command, _ in commands(page)}
    assert {("handdata", "plan"), ("handdata", "publish"), ("handtrain", "train"), ("handtrain", "report")} <= seen


def _sources() -> list[tuple[str, str]]:
    blocks = [(f"{page.name}, block {n}", text) for page in PAGES for n, text in enumerate(python_blocks(page), 1)]
    return blocks + [(path.name, path.read_text(encoding="utf-8")) for path in EXAMPLES]


@pytest.mark.parametrize(("where", "source"), _sources(), ids=[where for where, _ in _sources()])
def test_python_of_the_pages_uses_public_names_and_known_keywords(where, source):
    tree = ast.parse(source)
    mistakes = {call for node in ast.walk(tree) if isinstance(node, ast.Try) for call in ast.walk(node)}  # on purpose
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PROGRAMS:
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                public = getattr(module, "__all__", None) or dir(module)
                assert alias.name in public and not alias.name.startswith("_"), f"{where}: {alias.name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in PROGRAMS:
                public = importlib.import_module(node.value.id).__all__
                assert node.attr in public, f"{where}: {ast.unparse(node)} is not exported"
            if node.value.id == "build":
                assert node.attr in ATTRIBUTES or hasattr(handdata.Build, node.attr), f"{where}: {ast.unparse(node)}"
        if isinstance(node, ast.Call) and node not in mistakes:
            _check_keywords(where, node)


def _check_keywords(where: str, call: ast.Call) -> None:
    name = re.sub(r"^build\.", "handdata.Build.", ast.unparse(call.func))
    if not re.fullmatch(r"(handdata|handtrain)(\.\w+)+", name) or "Pipeline" in name:
        return
    target: Any = importlib.import_module(name.partition(".")[0])
    for part in name.split(".")[1:]:
        target = getattr(target, part)
    known = set(inspect.signature(target).parameters)
    known |= {field.name for options in CHANGES.get(name, ()) for field in dataclasses.fields(options)}
    unknown = {keyword.arg for keyword in call.keywords if keyword.arg} - known
    assert not unknown, f"{where}: {name} does not accept {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor[1:] in slugs, f"{page.name}: {target}{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_path_and_module_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.-])((?:handdata|handtrain|tests|benchmarks|manifests|prompts)/[\w/.-]*)", text):
        assert (ROOT / path.rstrip(".")).exists(), f"{page.name}: {path}"
    for module in re.findall(r"-m ((?:handdata|handtrain|tests|benchmarks)[\w.]*)", text):
        assert importlib.util.find_spec(module), f"{page.name}: python -m {module}"


def test_the_map_of_the_code_shows_where_everything_is():
    """Every folder of both packages has a row in the map, with a file that exists to start reading at."""
    page = (ROOT / "docs/code.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(hand\w+/[\w/]*)` \|.*\| `([\w.]+)` \|$", page, re.MULTILINE))
    folders = {
        str(path.parent.relative_to(ROOT)) + "/" for name in PROGRAMS for path in (ROOT / name).rglob("__init__.py")
    }
    assert set(table) == folders
    assert [folder + file for folder, file in table.items() if not (ROOT / folder / file).is_file()] == []


# a whole number is a measured figure if one of these follows
UNITS = r"%|times|px|kB|MB|GB|s|seconds|minutes|hours|images|pictures|photographs|trainings"


def test_figures_of_the_readme_are_in_the_benchmarks():
    readme, known = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/benchmarks.md"))
    readme = re.sub(r"https?://\S+|Python 3\.\d+|LLaMA 3|Apache-2\.0|Diffusion 1\.4", "", readme)
    decimals = set(re.findall(r"\d+\.\d+", readme))
    assert len(decimals) > 15
    assert {figure for figure in decimals if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d])", known)} == set()
    measured = rf"(?<![\d.,])\d[\d,]*\s+(?:{UNITS})(?!\w)"
    readme, known = (" ".join(text.split()) for text in (readme, known))
    whole = set(re.findall(measured, readme))
    assert len(whole) > 5
    assert whole - set(re.findall(measured, known)) == set()


def test_the_readme_is_short_and_leads_to_the_tutorials():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    first_screen = "\n".join(lines[:20])
    assert all(f"docs/{name}.md" in first_screen for name in ("reproduce", "cluster", "own_gesture", "judge"))


@pytest.fixture
def rewriting() -> Iterator[str]:
    """Serve a model whose answers no check accepts; yield the server's URL."""
    with chat_server(lambda request: says("no")) as server:
        yield server.url


def run(*command: str, folder: Path) -> str:
    """Run Python in a folder, without a network; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": ""}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_page(page: Path, url: str, folder: Path) -> str:
    """Run the blocks of a page one after the other, as a notebook does, except those that need the real Hub."""
    source = "\n".join(block for block in python_blocks(page) if "hf:" not in block.replace('"hf:USER/NAME"', ""))
    for text, replacement in SHRUNK[page.name]:
        assert source.count(text) == 1, f"{page.name} has '{text}' {source.count(text)} times"
        source = source.replace(text, replacement)
    rewrite = {"server": url, "model": "any", "retries": 0}
    return run("-c", f"REWRITE = {rewrite!r}\n{source}", folder=folder)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(rewriting, tmp_path):
    output = run_page(ROOT / "README.md", rewriting, tmp_path)
    assert output.count("\n") == 1, "the functions print nothing; the page prints one score"
    assert re.search(r"\d.*\b4\b", output), "value, interval and n of the four test images"
    assert (tmp_path / "runs/palm/model/hand1000.json").is_file()
    assert len(list((tmp_path / "runs/palm/images/tuned").glob("*.png"))) == 4


@pytest.mark.slow
def test_the_python_of_the_api_page_runs(rewriting, tmp_path):
    output = run_page(ROOT / "docs/python.md", rewriting, tmp_path)
    assert "28 rows in dataset/mini" in output, "8, 2 and 4 rows of two gestures"
    assert "steps" in output.splitlines()[-1], "the sentence about the unknown option names the nearest one"
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_examples_build_train_and_score(rewriting, tmp_path):
    examples = {path.stem: str(path) for path in EXAMPLES}
    assert set(examples) == {"build_dataset", "train_and_compare", "score_folder", "demo"}
    output = run(examples["build_dataset"], *BUILD_FLAGS.split(), "--server", rewriting, folder=tmp_path)
    assert "rows are in dataset" in output
    output = run(examples["train_and_compare"], *TRAIN_FLAGS.split(), folder=tmp_path)
    assert "hand-found rate" in output and (tmp_path / "run/report.html").is_file()
    output = run(examples["score_folder"], *SCORE_FLAGS.split(), folder=tmp_path)
    assert "gesture accuracy" in output and (tmp_path / "scores.json").is_file()


@pytest.mark.slow
def test_the_demo_draws_both_models_and_shows_how_they_were_judged(tmp_path):
    output = run(str(ROOT / "docs/examples/demo.py"), "--out", "demo", "--count", "3", "--steps", "4", folder=tmp_path)
    page = (tmp_path / "demo/index.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<td>\d of 3</td>", page)) == 2
    pictures = re.findall(r'src="(.+?)"', page)
    assert len(pictures) == 6 and all((tmp_path / "demo" / name).is_file() for name in pictures)
    assert (tmp_path / "demo/judge.html").is_file() and "p_wrong per image" in output
    first, second = ((tmp_path / "demo" / side / "00.png").read_bytes() for side in ("base", "tuned"))
    assert first != second, "the LoRA changes the pictures"


def test_the_lora_of_the_demo_is_small_and_names_its_base():
    from safetensors import safe_open

    file = ROOT / "models/mini-palm-lora.safetensors"
    assert file.stat().st_size < 4e6
    with safe_open(file, "pt") as opened:
        assert '"place": "mini-stable-diffusion"' in opened.metadata()["hand1000"]
