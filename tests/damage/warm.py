"""A process that has imported everything, and forks one try after the other: `python -m tests.damage.warm FIXTURE`.

Each line of stdin is a case as JSON; each line of stdout its result.
"""

import gc
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 150  # of a try, before it counts as stuck; one takes 1 to 5 s, more on a busy machine


def load_everything() -> None:
    """Import the modules that commands import."""
    import cv2  # noqa: F401
    import datasets
    import diffusers  # noqa: F401
    import mediapipe  # noqa: F401
    import torch
    from transformers import conversion_mapping

    import handtrain.cli.flags
    import handtrain.evaluation.evaluate
    import handtrain.generation.generate
    import handtrain.publish
    import handtrain.reporting.report
    import handtrain.training.train  # noqa: F401

    conversion_mapping.get_checkpoint_conversion_mapping("")  # compiles a thousand patterns
    datasets.disable_progress_bars()
    torch.set_num_threads(1)


def learn(modules: list[str]) -> None:
    """Import what a fork had to import, so that the next ones need not."""
    from PIL import Image

    Image.init()  # all its formats
    for module in modules:
        with suppress(Exception):  # some exist only while another module is imported
            importlib.import_module(module)


def one(fixture: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in a fork; return its result."""
    from tests.damage.trial import in_this_process

    folder, began = Path(tempfile.mkdtemp(prefix="damage-")), time.monotonic()
    gc.freeze()  # a fork need not look through the objects of all libraries, nor copy their pages
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(case.get("seconds") or SECONDS)
            in_this_process(fixture, folder, case["family"], case["name"], case["seed"])
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        learn(result.pop("imported"))
    else:
        tail = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")[-1500:]
        verdict = "time-out" if status == -signal.SIGALRM else "killed by a signal"
        result = {"verdict": verdict, "ended": [], "wrong": [f"exit status {status}: {tail}"], "allowed": []}
    if not case.get("keep"):
        shutil.rmtree(folder, ignore_errors=True)
    return {**case, **result, "folder": str(folder), "took": round(time.monotonic() - began, 2)}


def main() -> None:
    """Serve cases until stdin ends."""
    from tests.damage import fixture

    load_everything()
    folder = Path(sys.argv[1])
    fixture.environment(folder)
    for line in sys.stdin:
        print(json.dumps(one(folder, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
