"""Measure pose conditioning on the mini world: routes, switches, a fair baseline, unseen gestures, specificity.

    python -m benchmarks.pose_method --out FOLDER --stages screen grid [--samples 4000] [--jobs 2] [--device cpu]
    python -m benchmarks.pose_method --out FOLDER --stages screen --table

Rows are made by a few processes, each of which makes one row after the other. A finished row is a JSON file in
--results and is not made again; an interrupted training resumes. Without MediaPipe (or with --draw-only) the images are
kept in FOLDER/images, and the same command judges them where MediaPipe is installed. --winner and --baseline are JSON
files with the options of the rows `winner` and `no pose`; by default those of `benchmarks.pose_rows`.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pose_rows, pose_world
from benchmarks.pose_drawing import drawn, real
from benchmarks.pose_judging import judge
from benchmarks.pose_rows import BASE, Row

STAGES = ("screen", "grid", "explore", "presets", "ceiling", "final")
RESULTS = Path(__file__).parent / "results" / "pose"


def rows_of(given: argparse.Namespace) -> list[Row]:
    """Return the rows of the chosen stages, the base's first."""
    winner = _options(given.winner, pose_rows.PLUS)
    baseline = _options(given.baseline, pose_rows.FAIR)
    samples, long = given.samples, given.final_samples
    by_stage: dict[str, Callable[[], Iterable[Row]]] = {
        "screen": lambda: pose_rows.screen(samples),
        "grid": lambda: pose_rows.grid(samples),
        "explore": pose_rows.explore,
        "presets": pose_rows.presets,
        "ceiling": lambda: [pose_rows.ceiling()],
        "final": lambda: pose_rows.final(long, winner, baseline, given.seeds),
    }
    rows = [pose_rows.base(), *(row for stage in given.stages for row in by_stage[stage]())]
    if given.limit:
        rows = [replace(row, options={**row.options, "limit": given.limit}) for row in rows]
    if given.images:
        fewer = [tuple(replace(part, count=min(part.count, given.images)) for part in row.parts) for row in rows]
        rows = [replace(row, parts=parts) for row, parts in zip(rows, fewer, strict=True)]
    return [row for row in rows if not given.only or row.stage == "base" or any(o in row.name for o in given.only)]


def make(row: Row, folder: Path, device: str, threads: int, base: str = BASE) -> str:
    """Train a row and draw its images into FOLDER/images; return a line about it. It runs in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    target = folder / "images" / f"{row.name}.npz"
    if target.is_file():
        return f"{row.name}: drawn before"
    start, run = time.monotonic(), folder / "runs" / row.name
    model: str | Path = base
    if row.gestures:
        model = _train(row, folder, run, device, base=base)
    trained = time.monotonic()
    columns = real(row, folder, device) if row.stage == "ceiling" else drawn(row, model, folder, device)
    about = {
        "train_s": round(trained - start, 1), "draw_s": round(time.monotonic() - trained, 1), "device": _named(device),
        "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}")
    with partial.open("wb") as file:
        np.savez_compressed(file, **columns, about=np.array(json.dumps(about)))  # type: ignore[arg-type]
    partial.rename(target)
    if not row.keep:
        shutil.rmtree(run, ignore_errors=True)
    return f"{row.name}: trained in {about['train_s']} s, drawn in {about['draw_s']} s"


def _train(
    row: Row, folder: Path, run: Path, device: str, samples: int | None = None, base: str = BASE
) -> Path:  # fmt: skip
    from handtrain.training.train import train

    finished = train(
        folder / "dataset", gesture=row.gestures, base=base, out=run, device=device, cache=folder / "cache",
        progress=False, seed=row.seed,
        **{"unet_samples": row.samples if samples is None else samples, "prior_images": 512, **row.options},
        sample_every=0, validate_every=0, tensorboard=False, safety_checker=False, checkpoint_minutes=60.0,
    )  # fmt: skip
    for name in ("checkpoints", "stage2"):
        shutil.rmtree(run / name, ignore_errors=True)
    return finished.model


def encode(row: Row, folder: Path, device: str, threads: int) -> str:
    """Fill the cache of latents and texts before the other processes read it."""
    import torch

    torch.set_num_threads(threads)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="encode-", dir=folder / "runs") as run:  # another call may do the same
        _train(row, folder, Path(run), device, samples=row.options["unet_batch"])
    return "encoded"


def _named(device: str) -> str:
    import torch

    return (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
    )


def _options(path: Path | None, default: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path else default
    return chosen


def table(rows: Sequence[Row], results: Path) -> str:
    """Return a Markdown table of the finished rows: accuracy by kind and gesture, pose error, colours, scenes."""
    lines = []
    for row in rows:
        file = results / f"{row.name}.json"
        if not file.is_file():
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        gesture = row.gestures[0] if len(row.gestures) == 1 else str(len(row.gestures) or "")
        cells = [row.stage, row.variant, gesture, str(row.samples), str(row.seed)]
        for kind in ("rows", "own", "words"):
            of_kind = [part for part in record["parts"] if part["kind"] == kind]
            seen = [part for part in of_kind if part["gesture"] in row.gestures or not row.gestures]
            new = [part for part in of_kind if part not in seen]
            cells += [_mean(seen, "accuracy"), _mean(new, "accuracy")]
        posed = [part for part in record["parts"] if "pose_error" in part]
        cells += [_mean([p for p in posed if (p["gesture"] in row.gestures) == known], "pose_error", 1, 3)
                  for known in (True, False)]  # fmt: skip
        free = [part for part in record["parts"] if part["kind"] == "free"]
        images = sum(part["n"] for part in free)
        unasked = sum(part["gestures"].get(name, 0) for part in free for name in row.gestures[:1])
        cells += [f"{100 * unasked / images:.0f}" if images and len(row.gestures) == 1 else ""]
        cells += [_mean(record["parts"], name) for name in ("sleeve", "background")]
        cells.append(f"{record.get('retention', {}).get('distance', float('nan')):.3f}")
        cells.append(str(record["about"]["train_s"]))
        lines.append("| " + " | ".join(cells) + " |")
    head = [
        "stage", "variant", "gestures", "samples", "seed", "posed, trained", "posed, new", "own, trained", "own, new",
        "words, trained", "words, new", "error, trained", "error, new", "unasked", "sleeve", "wall", "scene", "s",
    ]  # fmt: skip
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def _mean(parts: Sequence[dict[str, Any]], name: str, scale: float = 100, places: int = 0) -> str:
    values = [part[name] for part in parts if part.get(name) is not None]
    return f"{scale * float(np.mean(values)):.{places}f}" if values else ""


def perform(rows: list[Row], given: argparse.Namespace) -> None:
    """Make and judge the missing rows until the minutes are over."""
    end = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
    results: Path = given.results
    missing = [row for row in rows if not (results / f"{row.name}.json").is_file()]
    undrawn = [row for row in missing if not (given.out / "images" / f"{row.name}.npz").is_file()]
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    can_judge = not given.draw_only and find_spec("mediapipe") is not None
    with pose_world.pool(given.jobs) as workers:
        if any(row.gestures for row in undrawn):
            options = {**pose_rows.PLUS, "prior": 0.0, "limit": given.limit}
            every = Row("encode", "encode", pose_rows.EVERY, options, 0, ())
            print(workers.submit(encode, every, given.out, given.device, threads).result(), file=sys.stderr, flush=True)
        print(workers.submit(make, rows[0], given.out, given.device, threads).result(), file=sys.stderr, flush=True)
        coming = [workers.submit(_whole, row, given, threads, end, can_judge) for row in missing]
        for row, future in zip(missing, coming, strict=True):
            error = future.exception()  # of one row: the others are made all the same
            print(f"{row.name}: failed, {error!r}" if error else future.result(), file=sys.stderr, flush=True)


def _whole(row: Row, given: argparse.Namespace, threads: int, end: float, can_judge: bool) -> str:
    # time.monotonic is the machine's, so processes can compare it
    if time.monotonic() > end:
        return f"{row.name}: left for the next call"
    line = make(row, given.out, given.device, threads)
    if can_judge:
        line += "; " + judge(row, given.out, given.results, not given.no_colours)
    return line


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="folder of the world, caches, runs and images")
    made.add_argument("--stages", nargs="+", choices=STAGES, default=["screen"])
    made.add_argument("--only", nargs="*", default=[], help="only rows whose name contains one of these texts")
    made.add_argument("--samples", type=int, default=4000, help="training samples of a row")
    made.add_argument("--final-samples", type=int, default=65536, help="training samples of the final rows")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--limit", type=int, default=0, help="training images per gesture, for a trial; 0: all")
    made.add_argument("--winner", type=Path, help="JSON file with the winner's options")
    made.add_argument("--baseline", type=Path, help="JSON file with the fair baseline's options")
    made.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of processes")
    made.add_argument("--images", type=int, default=0, help="images per gesture and part, for a trial; 0: all")
    made.add_argument("--device", default="cpu")
    made.add_argument("--minutes", type=float, default=0, help="start no row after this time; 0: no limit")
    made.add_argument("--results", type=Path, default=RESULTS)
    made.add_argument("--draw-only", action="store_true", help="keep the images for another call")
    made.add_argument("--no-colours", action="store_true")
    made.add_argument("--table", action="store_true", help="print the table of the finished rows alone")
    return made


def main() -> None:
    given = parser().parse_args()
    rows = rows_of(given)
    if not given.table:
        pose_world.prepare(given.out, given.jobs)
        perform(rows, given)
    print(table(rows, given.results))


if __name__ == "__main__":
    main()
