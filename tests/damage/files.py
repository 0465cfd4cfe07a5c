"""Families of damaged files: of a build, a dataset, a run, a model, generated images and caches.

A case is `PATH DAMAGE COMMAND`: the file of a copied folder, how it is damaged, and the command that reads it first.
After the command the work is finished as a user would: by the build, the training or the publishing once more.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handdata.files import sha256_of
from tests.chat_server import chat_server
from tests.damage.damages import DAMAGES
from tests.damage.fixture import TRAIN, written
from tests.damage.trial import Trial, different

SAME_KIND = 2  # files of one suffix in one folder that are damaged; the others are like them
GENERATE = ["--steps", "2", "--device", "cpu", "--limit", "2"]
EVALUATE = ["--clip", "none", "--variants", "standard", "--bootstrap", "2", "--device", "cpu"]

Command = Callable[[Trial, Path, str], None]  # the try, the copied folder, the declared reason for a difference


@dataclass(frozen=True)
class Files:
    """The damaged files of one folder of the fixture, and the commands that read them."""

    folder: str
    commands: dict[str, Command]
    left_out: tuple[str, ...] = ()  # ends of paths that no command reads
    own: tuple[tuple[str, str], ...] = ()  # end of a path, and why its damage may change the result

    def cases(self, fixture: Path) -> list[str]:
        """Return the names of all cases."""
        names = [
            f"{path} {damage} {command}"
            for path in self._paths(fixture)
            for damage in DAMAGES
            if damage != "none"
            for command in self.commands
        ]
        # the control, without damage: every command of the family has to end well
        return [*(f"{self._paths(fixture)[0]} none {command}" for command in self.commands), *names]

    def run(self, trial: Trial, name: str) -> None:
        """Damage the file, run the command and finish the work."""
        path, damage, command = name.split(" ")
        folder = trial.copy(self.folder)
        damaged = folder / path
        DAMAGES[damage](damaged, trial.chance)
        before = _state(damaged)
        allowed = next((reason for end, reason in self.own if path.endswith(end)), "") if damage != "none" else ""
        self.commands[command](trial, folder, allowed)
        trial.rebuilt = damage != "none" and _state(damaged) != before

    def _paths(self, fixture: Path) -> list[str]:
        root, paths, kinds = fixture / self.folder, [], Counter[tuple[Path, str]]()
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            relative = path.relative_to(root).as_posix()
            kind = (path.parent.parent if len(path.parent.name) == 2 else path.parent, path.suffix)  # caches: ab/abc...
            kinds[kind] += 1
            if (kinds[kind] <= SAME_KIND or path.suffix == ".json") and not relative.endswith(self.left_out):
                paths.append(relative)
        return paths


def _state(path: Path) -> str:
    return sha256_of(path) if path.is_file() else f"folder {path.is_dir()}"


@contextmanager
def writer() -> Iterator[list[str]]:
    """Serve the language model of the fixture; yield the flags of `build` for it."""
    with chat_server(written) as server:
        yield ["--rewrite.server", server.url]


def build_again(trial: Trial, build: Path, allowed: str) -> None:
    """Finish the build with the fixture's recipe; its dataset has to be the fixture's."""
    with writer() as flags:
        code = trial.run("handdata", "build", trial.fixture / "recipe.toml", "--out", build, *flags)
    if code == 0:
        trial.compare(build / "dataset", "build/dataset", allowed)


def _build(command: str, *more: str) -> Command:
    """Return a command of a build that is followed by `build`."""

    def run(trial: Trial, build: Path, allowed: str) -> None:
        trial.run("handdata", command, build, *more)
        build_again(trial, build, allowed)

    return run


def _rewrite(trial: Trial, build: Path, allowed: str) -> None:
    with writer() as flags:
        trial.run("handdata", "rewrite", build, "--server", flags[1])
    build_again(trial, build, allowed)


def _apply(trial: Trial, build: Path, allowed: str) -> None:
    trial.run("handdata", "review", build, "--apply", trial.fixture / "decisions.jsonl")
    build_again(trial, build, allowed)


def _drop(trial: Trial, build: Path, allowed: str) -> None:
    dropped = sorted((trial.fixture / "build" / "images" / "call").iterdir())[0].stem
    trial.run("handdata", "drop", build, "--image-id", dropped)
    build_again(trial, build, "a row was dropped")


def _publish_build(trial: Trial, build: Path, allowed: str) -> None:
    copy = trial.folder / "copy" / "published"  # the card holds the last name
    code = trial.run("handdata", "publish", build, "--to", copy)
    if code == 0:
        trial.compare(copy, "published", allowed)
    build_again(trial, build, allowed)
    if code and trial.ended[-1].code == 0 and trial.run("handdata", "publish", build, "--to", copy) == 0:
        trial.compare(copy, "published", allowed)


def _evaluate_build(trial: Trial, build: Path, allowed: str) -> None:
    trial.run("handdata", "evaluate", build / "dataset")
    build_again(trial, build, allowed)


def train(trial: Trial, dataset: Path, out: Path, base: Path | None = None) -> int | None:
    """Run the fixture's training."""
    places = ["--dataset", dataset, "--base", base or trial.fixture / "base", "--out", out]
    return trial.run("handtrain", "train", *places, *TRAIN)


def compare_model(trial: Trial, model: Path, allowed: str) -> None:
    """Compare the weights and files of a model, without its card, which names the folders of the training."""
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"):
        trial.compare(model / part, f"model/{part}", allowed)


def _train_on(trial: Trial, dataset: Path, allowed: str) -> None:
    if train(trial, dataset, trial.folder / "trained") == 0:
        compare_model(trial, trial.folder / "trained" / "model", allowed)


def _measure(trial: Trial, dataset: Path, allowed: str) -> None:
    trial.run("handdata", "evaluate", dataset)


def _as_real(trial: Trial, dataset: Path, allowed: str) -> None:
    trial.run("handtrain", "evaluate", "--real", f"{dataset}:test", "--fake", trial.fixture / "images", *EVALUATE)


def _as_prompts(trial: Trial, dataset: Path, allowed: str) -> None:
    prompts = ["--prompts", f"{dataset}:test", *GENERATE]
    trial.run("handtrain", "generate", "--model", trial.fixture / "model", "--out", trial.folder / "new", *prompts)


def _publish_over(trial: Trial, dataset: Path, allowed: str) -> None:
    if trial.run("handdata", "publish", trial.copy("build"), "--to", dataset) == 0:
        trial.compare(dataset, "published", allowed)


def _fetch_again(trial: Trial, dataset: Path, allowed: str) -> None:
    out = trial.folder / "again"
    if trial.run("handdata", "fetch", "--manifest", dataset / "manifest.parquet", "--out", out) == 0:
        for path in sorted((out / "images").glob("*/*.jpg")):
            trial.compare(path, f"build/images/{path.parent.name}/{path.name}", allowed)


def _resume(trial: Trial, run: Path, allowed: str) -> None:
    if train(trial, trial.fixture / "published", run) == 0:
        compare_model(trial, run / "model", allowed)


def _report(trial: Trial, run: Path, allowed: str) -> None:
    trial.run("handtrain", "report", run, "--out", trial.folder / "page.html")
    _resume(trial, run, allowed)


def _generate(trial: Trial, model: Path, allowed: str) -> None:
    prompts = ["--prompts", trial.fixture / "prompts.txt", *GENERATE]
    trial.run("handtrain", "generate", "--model", model, "--out", trial.folder / "new", *prompts)


def _publish_model(trial: Trial, model: Path, allowed: str) -> None:
    if trial.run("handtrain", "publish", "--model", model, "--to", trial.folder / "copy") == 0:
        trial.compare(trial.folder / "copy", "published-model", allowed)


def _publish_metrics(trial: Trial, run: Path, allowed: str) -> None:
    metrics = ["--metrics", run / "evaluation.json"]
    trial.run("handtrain", "publish", "--model", trial.copy("model"), "--to", trial.folder / "copy", *metrics)


def _as_base(trial: Trial, model: Path, allowed: str) -> None:
    train(trial, trial.fixture / "published", trial.folder / "trained", model)


def _as_fake(trial: Trial, images: Path, allowed: str) -> None:
    real = f"{trial.fixture / 'published'}:test"
    trial.run("handtrain", "evaluate", "--real", real, "--fake", images, "--base", trial.fixture / "images", *EVALUATE)


def _generate_again(trial: Trial, images: Path, allowed: str) -> None:
    prompts = ["--prompts", trial.fixture / "prompts.txt", *GENERATE]
    code = trial.run("handtrain", "generate", "--model", trial.fixture / "model", "--out", images, *prompts)
    if code == 0:
        for path in sorted((trial.fixture / "images").glob("*.png")):
            if different(path, images / path.name):
                trial.allowed.append(f"a kept image is not read again: {path.name}")


def _with_cache(command: Command) -> Command:
    def run(trial: Trial, cache: Path, allowed: str) -> None:
        os.environ["HAND1000_CACHE"] = str(cache)
        command(trial, cache, allowed)

    return run


def _train_with_cache(trial: Trial, cache: Path, allowed: str) -> None:
    _train_on(trial, trial.fixture / "published", allowed)


def _build_with_cache(trial: Trial, cache: Path, allowed: str) -> None:
    build = trial.copy("build")
    for stage in ("landmarks", "texts"):
        (build / stage / "00000.parquet").unlink()
    build_again(trial, build, allowed)


def _evaluate_with_cache(trial: Trial, cache: Path, allowed: str) -> None:
    _as_real(trial, trial.fixture / "published", allowed)


def _assets_with_cache(trial: Trial, cache: Path, allowed: str) -> None:
    trial.run("handdata", "assets", "--list")


_RECIPE = ("recipe.toml", "the recipe is the user's")
_DECISIONS = ("decisions.jsonl", "the decisions are the user's")

BUILD = Files(
    "build",
    {
        "build": build_again, "status": _build("status", "--json"), "review": _build("review"), "apply": _apply,
        "publish": _publish_build, "evaluate": _evaluate_build, "fetch": _build("fetch"),
        "landmarks": _build("landmarks"), "caption": _build("caption"), "rewrite": _rewrite, "check": _build("check"),
        "assemble": _build("assemble"), "drop": _drop,
    },
    left_out=("review.html", ".png", "contact_sheet.jpg"),
    own=(_RECIPE, _DECISIONS),
)  # fmt: skip
DATASET = Files(
    "published",
    {
        "train": _train_on, "evaluate": _measure, "real": _as_real, "prompts": _as_prompts, "publish": _publish_over,
        "fetch": _fetch_again,
    },
)  # fmt: skip
PAUSED = Files("paused", {"train": _resume, "report": _report, "generate": _generate}, left_out=(".lock",))
RUN = Files(
    "run",
    {
        "train": _resume, "report": _report, "generate": _generate, "publish": _publish_model,
        "metrics": _publish_metrics,
    },
    left_out=(".lock",),
)  # fmt: skip
MODEL = Files("model", {"generate": _generate, "publish": _publish_model, "base": _as_base})
IMAGES = Files("images", {"evaluate": _as_fake, "generate": _generate_again})
CACHE = Files(
    "cache",
    {
        "train": _with_cache(_train_with_cache), "build": _with_cache(_build_with_cache),
        "evaluate": _with_cache(_evaluate_with_cache), "assets": _with_cache(_assets_with_cache),
    },
)  # fmt: skip
BASE = Files("base", {"train": _as_base, "generate": _generate})
