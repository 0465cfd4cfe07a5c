"""Run 32 images through every real component, and print one table of what worked, how fast and how well.

    benchmarks/real.sh --out DIR [--to hf:USER/NAME]

Every part runs the commands that a user would type, in processes of their own. Weights are downloaded by a command
before, so that the times of the parts are those of the work. A part whose predecessor failed is not run. The exit code
is 1 if a part failed. --recipe, --clip, --base and --inception replace the components, for instance by stand-ins.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from handdata.files import write_text
from handdata.machine import cores
from handdata.markdown import markdown_table
from handtrain.evaluation.scores import Scores

COUNTS = {"train": 10, "validation": 2, "test": 4}  # of each of two gestures, without spares: 32 images
GESTURES = ("call", "ok")
IMAGES = len(GESTURES) * sum(COUNTS.values())
SEEDS = 2  # generated images per text of the first gesture's test split

# Code that downloads the weights of one part, with the build's recipe or a name.
_DOWNLOADS = {
    "caption": "from handdata.huggingface import *; c = recipe.caption; c.server or model_folder(c.model, c.revision)",
    "rewrite": "from handdata.weights import gguf; r = recipe.rewrite; r.server or gguf.gguf_file(gguf.pinned(r))",
    "clip": "from handdata.huggingface import model_folder; model_folder(name, 'main', '--clip')",
    "base": "from handdata.huggingface import *; pipeline_folder(parse_model(name, '--model'), '--model')",
}
_LOAD = "import sys; from handdata.builds.folder import BuildFolder; name = sys.argv[2];"
_LOAD += " recipe = BuildFolder.open(sys.argv[1]).recipe; "


@dataclass(frozen=True)
class Part:
    """A component: the commands before it, those that are measured, and the quality of their result as text."""

    name: str
    needs: tuple[str, ...]
    before: list[list[str]]
    commands: list[list[str]]
    count: int  # of the unit, for the speed
    unit: str
    quality: Callable[[], str]
    output: Path | None = None  # file for what the last command prints


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    name: str
    worked: str  # yes, no, or not run
    speed: str = ""
    quality: str = ""  # or the reason


def main() -> None:
    """Run all parts; exit with 1 if one did not work."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the build, the images and the table")
    parser.add_argument("--recipe", default="hand1000", help="name or file of the recipe")
    parser.add_argument("--clip", default="openai/clip-vit-base-patch32")
    parser.add_argument("--base", default="hf:CompVis/stable-diffusion-v1-4")
    parser.add_argument("--inception", help="weights file in place of the released one")
    parser.add_argument("--to", help="repository for the 32 images, hf:USER/NAME; without it nothing is published")
    given = parser.parse_args()
    done: dict[str, Outcome] = {}
    for part in parts(given):
        done[part.name] = run(part, done)
        print(f"{part.name}: {done[part.name].worked} {done[part.name].quality}", file=sys.stderr, flush=True)
    table = report(list(done.values()))
    write_text(given.out / "real.md", table + "\n")
    print(table)
    sys.exit(any(outcome.worked == "no" for outcome in done.values()))


def parts(given: argparse.Namespace) -> list[Part]:
    """Return the parts in the order in which they run."""
    build, images = given.out / "build", given.out / "images"
    counts = [word for split, count in COUNTS.items() for word in (f"--select.{split}", str(count))]
    start = ["handdata", "build", given.recipe, "--out", str(build), "--until", "facts", "--select.spare", "0", *counts]
    start += ["--select.gestures", *GESTURES]
    test = f"{build}:test"
    generate = ["handtrain", "generate", "--model", given.base, "--prompts", test, "--gesture", GESTURES[0]]
    generate += ["--seeds", *map(str, range(SEEDS)), "--out", str(images)]
    judge = ["handtrain", "evaluate", "--real", test, "--fake", str(images), "--variants", "standard", "--clip", "none"]
    judge += ["--json", str(given.out / "evaluation.json")]
    judge += ["--inception-fid", given.inception] if given.inception else []
    scores = ["handdata", "evaluate", str(build), "--clip", given.clip, "--json"]
    weights = [["handdata", "assets", "hand-landmarker", "clip-vocabulary"]]
    inception = [] if given.inception else [["handdata", "assets", "inception-fid"]]
    captions, texts, made = ("BLIP-large",), ("LLaMA 3 8B",), COUNTS["test"] * SEEDS
    host, dataset = ("HaGRID's host",), ("dataset",)
    publish = ["handdata", "publish", str(build), "--to", str(given.to), "--private"]
    found = [
        Part(host[0], (), [], [start], IMAGES, "images", lambda: _share(build, "fetch", "sha256", bool)),
        Part("MediaPipe", host, weights, [_on(build, "landmarks")], IMAGES, "images",
             lambda: _share(build, "landmarks", "gesture_hand", lambda hand: hand >= 0)),
        Part(captions[0], host, [_download("caption", build)], [_on(build, "caption")], IMAGES, "captions",
             lambda: _share(build, "captions", "caption", bool)),
        Part(texts[0], captions, [_download("rewrite", build)], [_on(build, "rewrite")], IMAGES, "texts",
             lambda: _share(build, "texts", "rewrite", lambda way: way in ("llm", "kept"))),
        Part(dataset[0], ("MediaPipe", *texts), [], [_on(build, "check"), _on(build, "assemble")], IMAGES, "rows",
             lambda: f"{sum(path.stat().st_size for path in (build / 'dataset').rglob('*.*')) / 1e6:.1f} MB"),
        Part("CLIP", dataset, [_download("clip", build, given.clip)], [scores], IMAGES, "rows",
             lambda: _cosines(_read(given.out / "clip.json")), given.out / "clip.json"),
        Part("Stable Diffusion 1.4", dataset, [_download("base", build, given.base)], [generate], made, "images",
             lambda: f"{len(list(images.rglob('*.png')))} of {made} images"),
        Part("Inception", ("Stable Diffusion 1.4",), inception, [judge], made, "images",
             lambda: str(Scores(_read(given.out / "evaluation.json"))["FID"])),
    ]  # fmt: skip
    if given.to:
        found.append(Part("the Hub", dataset, [], [publish], IMAGES, "rows", lambda: "read back"))
    return found


def run(part: Part, done: dict[str, Outcome]) -> Outcome:
    """Run the commands of a part; return its row of the table."""
    lacking = [name for name in part.needs if done[name].worked != "yes"]
    if lacking:
        return Outcome(part.name, "not run", quality=f"needs {' and '.join(lacking)}")
    began = time.monotonic()
    for command in (*part.before, *part.commands):
        if command is part.commands[0]:
            began = time.monotonic()
        problem = _problem(command, part.output)
        if problem is not None:
            return Outcome(part.name, "no", quality=problem)
    seconds = time.monotonic() - began
    return Outcome(part.name, "yes", f"{seconds:.1f} s, {part.count / seconds:.2f} {part.unit}/s", part.quality())


def report(outcomes: list[Outcome]) -> str:
    """Return the table with the machine that it was measured on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    rows = [(outcome.name, outcome.worked, outcome.speed, outcome.quality) for outcome in outcomes]
    table = markdown_table(["component", "worked", "how fast, loading included", "how well"], rows)
    return f"{IMAGES} images, {cores()} cores, {gpu}, {time.strftime('%Y-%m-%d')}\n\n{table}"


def _problem(command: list[str], output: Path | None) -> str | None:
    """Run a command of ours, whose output is shown; return the last line of its errors if it failed."""
    print("$ " + " ".join(command), file=sys.stderr, flush=True)
    module = ["-m"] if command[0] in ("handdata", "handtrain") else []
    words = [sys.executable, *module, *command]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    print(done.stdout + done.stderr, file=sys.stderr, flush=True)
    if output and not done.returncode:
        write_text(output, done.stdout)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else None


def _on(build: Path, stage: str) -> list[str]:
    return ["handdata", stage, str(build)]


def _download(kind: str, build: Path, name: str = "") -> list[str]:
    code = "import handdata.errors as e\ntry:\n    " + _LOAD + _DOWNLOADS[kind]
    return ["-c", f"{code}\nexcept (e.UserError, e.Unfinished) as error:\n    sys.exit(str(error))", str(build), name]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _share(build: Path, folder: str, column: str, good: Callable[[Any], bool]) -> str:
    """Return how many of the images have a good value in a column of a stage."""
    values = [v for path in sorted((build / folder).glob("*.parquet")) for v in pq.read_table(path)[column].to_pylist()]
    return f"{sum(good(value) for value in values if value is not None)} of {IMAGES}"


def _cosines(result: dict) -> str:
    if result["not_computed"]:
        return f"not computed: {result['not_computed']}"
    scores = result["gestures"]["all"]
    names = {"clip_image_caption": "image-caption", "clip_caption_caption": "caption-caption", "phrase_rate": "phrase"}
    return ", ".join(f"{words} {scores[name]:.3f}" for name, words in names.items())


if __name__ == "__main__":
    main()
