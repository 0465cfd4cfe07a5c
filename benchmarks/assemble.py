"""Measure `assemble` at the paper's size: 12,600 rows and their spares. Prints seconds, megabytes and peak memory.

python benchmarks/assemble.py --size 512
"""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

from handdata.builds.build import Build
from handdata.gestures import PAPER_GESTURES
from handdata.rows import decisions
from handdata.rows.publication import choose
from handdata.stages import assemble
from tests.finished import QUIET, finished_build


def main() -> None:
    """Write a finished build, assemble it, and print times and memory."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--size", type=int, default=512, help="longest side of the images, px")
    parser.add_argument("--train", type=int, default=1000)
    size, train = (given := parser.parse_args()).size, given.train
    folder = Path(tempfile.mkdtemp(prefix="assemble-"))
    counts = {"train": train, "validation": train // 10, "test": train}
    build = finished_build(folder / "build", counts, PAPER_GESTURES, size=size, spares=train // 10)
    rows = assemble.read_rows(build, decisions.replay(build))
    for label, action in (
        ("choose", lambda: choose(rows, PAPER_GESTURES, counts, 4)),
        ("assemble", lambda: assemble.run(build, Build.open(build).recipe, QUIET)),
        ("again, nothing changed", lambda: assemble.run(build, Build.open(build).recipe, QUIET)),
    ):
        clock, processor = time.perf_counter(), time.process_time()
        action()
        print(f"{label}: {time.process_time() - processor:.1f} s processor, {time.perf_counter() - clock:.1f} s clock")
    published = sum(path.stat().st_size for path in (build / "dataset").rglob("*.parquet")) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{rows.num_rows:,} rows selected, {published:,.0f} MB published, peak {peak:,.0f} MiB")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
