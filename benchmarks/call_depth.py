"""Print the number of our frames between a command and its equation, network, captioner, request or pipeline.

    python -m benchmarks.call_depth

Each command runs in this process on tiny models and drawn pictures. The stack is read at the call that does the work.
Our own frames are named functions and methods under handdata/ and handtrain/ without the folder cli/, the last one
included. Where a thread does the work, the frames of the main thread that wait for it count too. The exit code is 1
where a stack is deeper than its limit.
"""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import handdata.cli
import handtrain.cli
from handdata.cli import program
from tests import ROOT, hagrid, tiny_captioners
from tests.handtrain import inceptions, tiny
from tests.range_server import serve

COUNTS = ["--render.train", "3", "--render.validation", "1", "--render.test", "1", "--select.train", "2"]
COUNTS += ["--select.validation", "0", "--select.test", "0", "--select.gestures", "call"]


def our_frames(frame: Any) -> list[str]:
    """Return our frames of a stack, outermost first, as `package.module.function`."""
    names = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        parts = path.relative_to(ROOT).with_suffix("").parts if path.is_relative_to(ROOT) else ("",)
        ours = parts[0] in ("handdata", "handtrain") and parts[1:2] != ("cli",)
        if ours and not frame.f_code.co_name.startswith("<"):
            names.append(".".join((*parts, frame.f_code.co_qualname)))
        frame = frame.f_back
    return names[::-1]


@contextlib.contextmanager
def recorded(owner: Any, name: str, after: str = "") -> Iterator[dict[tuple[str, ...], None]]:
    """Record the stacks of all calls of `owner.name`, each once; with `after` only those that go through it."""
    real, stacks = getattr(owner, name), dict[tuple[str, ...], None]()

    def call(*args: Any, **kwargs: Any) -> Any:
        waiting: list[str] = []
        if threading.current_thread() is not threading.main_thread():
            waiting = our_frames(sys._current_frames()[threading.main_thread().ident])  # type: ignore[index]
        stack = (*waiting, *our_frames(sys._getframe(1)))
        if any(after in frame for frame in stack):
            stacks[stack] = None
        return real(*args, **kwargs)

    with mock.patch.object(owner, name, call):
        yield stacks


def run(*argv: str) -> None:
    """Run one command line in this process, its output on stderr."""
    programs = {"handdata": handdata.cli, "handtrain": handtrain.cli}
    with contextlib.redirect_stdout(sys.stderr):
        code = program.main(argv[0], "", programs[argv[0]].COMMANDS, list(argv[1:]))
    assert code == 0, f"{' '.join(argv)} ended with {code}"


def stacks_of(folder: Path) -> Iterator[tuple[str, int, dict[tuple[str, ...], None]]]:
    """Yield the name of a measurement, the limit and the stacks."""
    import httpx2
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from transformers import BlipForConditionalGeneration

    base, dataset = str(tiny.write_base(folder / "base")), str(tiny.write_dataset(folder / "dataset"))
    train = ["--dataset", dataset, "--gesture", "call", "--base", base, "--cache", str(folder / "cache")]
    for preset in ("paper", "plus-2025", "reference"):
        short = ["--limit", "1", "--unet-epochs", "1", "--sample-every", "0", "--validate-every", "0"]
        with recorded(UNet2DConditionModel, "forward", "noise_prediction_loss") as stacks:
            run("handtrain", "train", *train, *short, "--preset", preset, "--out", str(folder / preset))
        yield f"train ({preset}) to noise_prediction_loss", 5, stacks
    images = str(folder / "images")
    with recorded(StableDiffusionPipeline, "__call__") as stacks:
        run("handtrain", "generate", "--model", base, "--out", images, "--prompt", "a hand", "--steps", "1",
            "--seeds", "0", "1", "--resolution", "16")  # fmt: skip
    yield "generate to the pipeline", 3, stacks
    weights = str(inceptions.write_inception_fid(folder / "inception.pth"))
    with recorded(FeatureExtractorInceptionV3, "forward") as stacks:
        run("handtrain", "evaluate", "--real", images, "--fake", images, "--inception-fid", weights, "--clip", "none",
            "--variants", "standard", "--bootstrap", "2")  # fmt: skip
    yield "evaluate to the network", 5, stacks
    captioner = str(tiny_captioners.make("blip", folder / "captioner"))
    with recorded(BlipForConditionalGeneration, "generate") as stacks:
        run("handdata", "build", "mini", "--out", str(folder / "build"), "--until", "caption", "--caption.model",
            captioner, *COUNTS)  # fmt: skip
    yield "build to the captioner's generate", 5, stacks
    with served(folder) as recipe, recorded(httpx2.Client, "send") as stacks:
        run("handdata", "build", recipe, "--out", str(folder / "fetched"), "--until", "fetch")
    of_members = {stack: None for stack in stacks if any("fetch" in frame for frame in stack)}
    yield "build to the HTTP request for members", 7, of_members
    yield "build to the HTTP request for an index", 7, {stack: None for stack in stacks if stack not in of_members}


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve small archives in HaGRID's layout over HTTP; yield the recipe that names them."""
    world = hagrid.world()
    (folder / "served").mkdir()
    world.write_annotations(folder / "served" / "annotations.zip")
    world.write_images(folder / "served" / "images.zip")
    with serve(folder / "served") as server:
        places = {name: server.url(f"{name}.zip") for name in ("annotations", "images")}
        yield str(hagrid.write_recipe(folder, places))


def main() -> None:
    """Print the deepest stack of each command."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    too_deep = False
    with tempfile.TemporaryDirectory() as folder:
        for name, limit, stacks in stacks_of(Path(folder)):
            assert stacks, f"{name}: the call was not reached"
            deepest = max(stacks, key=len)
            too_deep |= len(deepest) > limit
            print(f"{name}: {len(deepest)} frames, at most {limit}", *deepest, sep="\n    ", flush=True)
    sys.exit(too_deep)


if __name__ == "__main__":
    main()
