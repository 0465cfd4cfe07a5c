"""Read every piece of a finished run again: `handtrain train --verify`."""

import sys

from handdata.files import sha256_of
from handdata.readers import read_json
from handtrain import tensor_cache
from handtrain.run import checkpoint
from handtrain.run.folder import RunFolder


def verify(run: RunFolder) -> None:
    """Set damaged pieces of a finished run aside and take back that it is finished, so that they are made again.

    Its model, base and dataset are compared with their hashes whenever a run is opened.
    """
    pieces = {path: tensor_cache.read(path) for path in sorted(run.path.glob("stage2/*.safetensors"))}
    intact = {path: piece is not None and run.owns(piece[1]) for path, piece in pieces.items()}
    folders = sorted(path for path in (run.path / "checkpoints").glob("*") if not path.name.startswith("."))
    for path in folders:
        read = checkpoint.read(path)
        intact[path] = read is not None and run.owns(read.state)
    feature = run.path / "stage1.json"
    intact[feature] = not feature.exists() or read_json(feature) is not None
    damaged = [path for path, whole in intact.items() if not whole]
    for path in damaged:
        print(f"handtrain: {path.relative_to(run.path)} is damaged and is made again", file=sys.stderr)
        checkpoint.set_aside(path)
    log, written = run.path / "log.jsonl", run.record.get("log_sha256")
    if written and (not log.exists() or sha256_of(log) != written):
        print(f"handtrain: {log} has changed since the end of the training; it cannot be made again", file=sys.stderr)
    if damaged:
        run.reopen()
    print(f"handtrain: {len(intact) - len(damaged)} of {len(intact)} pieces of the run are intact", file=sys.stderr)
