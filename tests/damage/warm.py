"""A process that has imported everything, and forks one try after the other: `python -m tests.damage.warm FIXTURE`.

Each line of stdin is a case as JSON; each line of stdout its result.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS = 60  # of a try, before it counts as stuck


def load_everything() -> None:
    """Import the modules that commands import."""
    import cv2  # noqa: F401
    import datasets
    import diffusers  # noqa: F401
    import mediapipe  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import handtrain.cli.flags
    import handtrain.evaluation.evaluate
    import handtrain.generation.generate
    import handtrain.publish
    import handtrain.reporting.report
    import handtrain.training.train  # noqa: F401

    datasets.disable_progress_bars()
    torch.set_num_threads(1)


def one(fixture: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in a fork; return its result."""
    from tests.damage.trial import in_this_process

    folder, began = Path(tempfile.mkdtemp(prefix="damage-")), time.monotonic()
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
