"""The public benchmark of wrong anatomy: read drawn pairs, fit the judge of anatomy, print the table.

    handdata render --out pairs --pairs --natural 0.4 --flaw-count 1 --second-hand 0 --no-oddities \\
        --train 0 --validation 0 --test 12
    python -m benchmarks.anatomy measure pairs --out pairs.npz
    python -m benchmarks.anatomy train pairs.npz --seed 0 --out anatomy.safetensors
    python -m benchmarks.anatomy table pairs.npz --photos photographs.npz --seed 0
    python -m benchmarks.anatomy table unseen.npz --fit pairs.npz --photos photographs.npz --seed 0
    python -m benchmarks.anatomy check others.npz

`measure` reads a folder of `render --pairs`, or any folder of photographs (*.jpg); the others take several of its
files. `table` judges every hand by a fit that never saw its person, in folds or on the files of `--fit`; `check` by the
shipped weights. `measure --side 64` first reduces the pictures to 64 px.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.anatomy_fit import fit
from benchmarks.anatomy_measures import Measures, measure
from benchmarks.anatomy_table import check, held_out, table
from handdata.files import sha256_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    parts = {name: commands.add_parser(name) for name in ("measure", "train", "table", "check")}
    parts["measure"].add_argument("folder", type=Path)
    for name in ("train", "table", "check"):
        parts[name].add_argument("files", type=Path, nargs="+", help="written by 'measure'")
    for name in ("train", "table"):
        parts[name].add_argument("--seed", type=int, default=0, help="random seed for the folds")
    for name in ("measure", "train"):
        parts[name].add_argument("--out", type=Path, required=True)
    parts["table"].add_argument("--photos", type=Path, help="photographs, written by 'measure'; never fitted on")
    parts["table"].add_argument("--fit", type=Path, nargs="+", help="fit on these files, not in folds")
    parts["measure"].add_argument("--side", type=int, default=0, help="reduce pictures to this short side, px")
    given = parser.parse_args()
    if given.command == "measure":
        np.savez_compressed(given.out, **asdict(measure(given.folder, given.side)))
        return
    data = Measures.joined([load(path) for path in given.files])
    if given.command == "train":
        from safetensors.numpy import save_file

        save_file(asdict(fit(data, given.seed)), given.out)
        print(f"{given.out}: {given.out.stat().st_size:,} bytes, sha256 {sha256_of(given.out)}")
        return
    if given.command == "check":
        print(check(data))
        return
    photos = load(given.photos) if given.photos else None
    if given.fit:
        lines = held_out(Measures.joined([load(path) for path in given.fit]), data, photos, given.seed)
    else:
        lines = table(data, photos, given.seed)
    for line in lines:
        print(line)


def load(path: Path) -> Measures:
    """Load a file that `measure` wrote."""
    with np.load(path) as columns:
        return Measures(**columns)


if __name__ == "__main__":
    main()
