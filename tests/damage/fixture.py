"""The fixture: a drawn build of 20 rows, its published dataset, a base, runs, a model, images and caches.

It is made once per state of the code, in a folder for temporary files, and reused.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from tests import ROOT

COUNTS = {"train": 6, "validation": 2, "test": 2}  # rows per gesture
GESTURES = ("call", "palm")
STOPPED_AT = 3  # steps of the run that is to be resumed
RECIPE = """
name = "damage"
[source]
annotations = "world/annotations.zip"
images = "world/{gesture}.zip"
[select]
gestures = ["call", "palm"]
train = 6
validation = 2
test = 2
max_per_subject = 0
[caption]
model = "mini-blip"
[rewrite]
model = "any"
server = "http://127.0.0.1:9/v1"
retries = 1
timeout = 5.0
[publish]
title = "A drawn dataset"
"""
TRAIN = [
    "--gesture", "call", "--device", "cpu", "--limit", "3", "--unet-epochs", "2", "--unet-batch", "1",
    "--embedding-steps", "2", "--embedding-batch", "2", "--no-tensorboard", "--sample-every", "0",
    "--validate-every", "0", "--checkpoint-minutes", "0",
]  # fmt: skip


def fixture_folder(place: Path | None = None) -> Path:
    """Return the fixture's folder, made in a process of its own if it does not exist."""
    root = place or Path(tempfile.gettempdir()) / f"hand1000-damage-{os.getuid()}"
    folder = root / _state_of_the_code()
    if not (folder / "finished").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for old in sorted(root.iterdir(), key=lambda path: path.stat().st_mtime)[:-3]:
            shutil.rmtree(old, ignore_errors=True)
        if os.waitstatus_to_exitcode(_forked(folder)):
            raise SystemExit(f"the fixture cannot be made: {(folder / 'errors.txt').read_text()[-3000:]}")
    return folder


def _state_of_the_code() -> str:
    digest = hashlib.sha256()
    files = [path for name in ("handdata", "handtrain") for path in (ROOT / name).rglob("*.py")]
    for path in sorted([*files, Path(__file__), ROOT / "tests" / "handtrain" / "tiny.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _forked(folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            handle = os.open(folder / "errors.txt", os.O_WRONLY | os.O_CREAT)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            make(folder)
            code = 0
        except BaseException:  # noqa: BLE001 - printed for the parent
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def make(folder: Path) -> None:
    """Make the fixture."""
    from tests.chat_server import chat_server
    from tests.handtrain.tiny import write_base

    environment(folder)
    (folder / "recipe.toml").write_text(RECIPE)
    drawn = ["--train", "8", "--validation", "3", "--test", "3", "--size", "96", "--no-oddities"]
    _run("handdata", "render", "--out", folder / "world", "--gestures", *GESTURES, *drawn, "--workers", "1")
    with chat_server(written) as server:
        rewrite = ["--rewrite.server", server.url]
        _run("handdata", "build", folder / "recipe.toml", "--out", folder / "build", *rewrite)
        _decide(folder)
        _run("handdata", "build", folder / "recipe.toml", "--out", folder / "build", *rewrite)
    _run("handdata", "publish", folder / "build", "--to", folder / "published")
    write_base(folder / "base")
    (folder / "prompts.txt").write_text("a person making phone call hand gesture\na man in a red shirt\n")
    common = ["train", "--dataset", folder / "published", "--base", folder / "base", *TRAIN]
    _stopped(folder, *common, "--out", folder / "paused")
    _run("handtrain", *common, "--out", folder / "run")
    shutil.copytree(folder / "run" / "model", folder / "model")
    _run("handtrain", "publish", "--model", folder / "run", "--to", folder / "published-model")
    images = ["--prompts", folder / "prompts.txt", "--steps", "2", "--device", "cpu"]
    _run("handtrain", "generate", "--model", folder / "model", "--out", folder / "images", *images)
    evaluation = ["--clip", "none", "--variants", "standard", "--bootstrap", "2", "--device", "cpu"]
    real = ["--real", f"{folder / 'published'}:test", "--fake", folder / "images"]
    _run("handtrain", "evaluate", *real, *evaluation, "--json", folder / "run" / "evaluation.json")
    (folder / "finished").write_text("")


def environment(folder: Path) -> None:
    """Set the variables of all commands: no network, one thread, the fixture's own caches."""
    import torch

    torch.set_num_threads(1)
    os.environ["HAND1000_CACHE"] = str(folder / "cache")
    if not (folder / "cache").exists():
        (folder / "cache").mkdir(parents=True)
        own = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hand1000"
        for name in ("hand_landmarker.task", "bpe_simple_vocab_16e6.txt.gz"):
            shutil.copyfile(own / name, folder / "cache" / name)


def written(request: dict[str, Any]) -> tuple[int, Any]:
    """Answer as a language model that keeps every word of the caption and adds the phrase."""
    text = "\n".join(str(message["content"]) for message in request["messages"] if message["role"] == "user")
    caption, phrase = (re.findall(rf"{label}:\s*(.*)", text)[-1].strip().strip('"') for label in ("Caption", "Words"))
    message = {"role": "assistant", "content": f"{caption}, {phrase}"}
    return 200, {"choices": [{"message": message, "finish_reason": "stop"}]}


def _decide(folder: Path) -> None:
    """Accept one row and reject another, as a person does on the page."""
    import pyarrow.parquet as pq

    ids = pq.read_table(folder / "build" / "manifest.parquet", columns=["image_id"])["image_id"].to_pylist()
    lines = [{"image_id": ids[0], "what": "accepted"}, {"image_id": ids[1], "what": "rejected"}]
    (folder / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _run("handdata", "review", folder / "build", "--apply", folder / "decisions.jsonl")
    _run("handdata", "review", folder / "build")


def _stopped(folder: Path, *words: object) -> None:
    """Train until a signal arrives in a step of Stage III."""
    from handtrain.training import loop

    real, steps = loop.tuning_step, []

    def signalled(*arguments: Any, **keywords: Any) -> Any:
        steps.append(1)
        if len(steps) == STOPPED_AT:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **keywords)

    loop.tuning_step = signalled
    _run("handtrain", *words, code=128 + signal.SIGTERM)
    loop.tuning_step = real


def _run(program: str, *words: object, code: int = 0) -> None:
    from handdata.cli import program as programs
    from tests.damage.trial import _commands

    ended = programs.main(program, "", _commands(program), [str(word) for word in words])
    assert ended == code, f"{program} {words[0]} ended with {ended}"
