"""Print hashes of a small dataset build and of the weights that each preset trains.

    python tests/golden.py [--out FOLDER]

It runs the commands `handdata build` and `handtrain train` of this checkout on the CPU with one thread, so two versions
of the code can be compared on one machine: equal lines mean equal results. A change that promises 'as before' promises
equal lines. FOLDER (default: a temporary one) keeps the files. Texts of cards are not hashed. The run takes about three
minutes on two cores.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COUNTS = [
    "--select.gestures", "call", "ok", "--render.train", "10", "--render.validation", "3", "--render.test", "4",
    "--select.train", "8", "--select.validation", "2", "--select.test", "2", "--rewrite.retries", "1",
]  # fmt: skip
TRAIN = ["--base", "mini-stable-diffusion", "--gesture", "call", "--device", "cpu", "--limit", "4"]
SHORT = ["--unet-epochs", "3", "--embedding-steps", "3", "--sample-every", "0", "--validate-every", "0"]
PRESETS = ("reference", "paper", "fast", "plus-2025", "mini")


def run(*command: str) -> None:
    """Run a command of this checkout. Raises `CalledProcessError` where it fails."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=True, stdout=sys.stderr)


def hashes(folder: Path, *patterns: str) -> list[str]:
    """Return a line `sha256  path` for each file of a folder that fits one of the patterns."""
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    assert files, f"{folder} holds none of {patterns}"
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder.parent)}" for path in files]


def table_hash(path: Path) -> str:
    """Return a line for the rows of a Parquet file; its metadata holds the folder's name and the archives' times."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    table = pq.read_table(path).replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as file:
        file.write_table(table)
    return f"{hashlib.sha256(sink.getvalue()).hexdigest()}  rows of {path.name}"


def golden(out: Path) -> list[str]:
    """Build, publish and train below a folder; return the lines."""
    run("handdata", "build", "mini", "--out", str(out / "build"), *COUNTS)
    run("handdata", "publish", str(out / "build"), "--to", str(out / "dataset"))
    lines = [table_hash(out / "build" / "manifest.parquet")]
    lines += hashes(out / "build", "dataset/data/*/*.parquet", "dataset/manifest.parquet")
    for preset in PRESETS:
        run("handtrain", "train", "--dataset", str(out / "dataset"), "--preset", preset, "--out", str(out / preset),
            "--cache", str(out / "cache"), "--no-tensorboard", *TRAIN, *SHORT)  # fmt: skip
        lines += hashes(out / preset, "stage1.json", "model/unet/*.safetensors", "model/fusion.safetensors")
    return lines


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the files in this new folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(golden(given.out or Path(folder))))


if __name__ == "__main__":
    main()
