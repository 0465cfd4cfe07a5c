"""Reproduce the paper's table with ours next to it: generate, train, evaluate for every gesture, then one report."""

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.files import read_json
from handdata.gestures import PAPER_GESTURES
from handdata.huggingface import parse, parse_model
from handtrain.data.dataset import load
from handtrain.evaluation import evaluate as evaluation
from handtrain.evaluation.image_sets import folder_set
from handtrain.generation import generate as generation
from handtrain.options import EvaluateOptions, GenerateOptions, recorded
from handtrain.presets import RunOptions, options_of
from handtrain.reporting.report import report
from handtrain.run.processes import launched
from handtrain.training import train


def reproduce(
    dataset: str | Path,
    *,
    base: str | Path,
    out: str | Path,
    gestures: Sequence[str] = PAPER_GESTURES,
    preset: str = "paper",
    lam: float | None = None,
    split: str = "test",
    limit: int = 0,
    seeds: Sequence[int] = (0,),
    generate: GenerateOptions | None = None,
    evaluate: EvaluateOptions | None = None,
    batch: int = 4,
    device: str = "auto",
) -> Path:
    """Run the chain for every gesture in OUT/GESTURE, then write OUT/report.html and return its path.

    The texts of `split` are the prompts, its images the real ones. Finished parts are kept: the same call resumes.
    Raises `UserError` for a mistake in any gesture before the first image is made.
    """
    out, generate, evaluate = Path(out), generate or GenerateOptions(), evaluate or EvaluateOptions()
    print(planned(dataset, base=base, out=out, gestures=gestures, preset=preset, lam=lam, split=split, limit=limit,
                  seeds=seeds, generate=generate, device=device), file=sys.stderr)  # fmt: skip
    real = f"{dataset}:{split}"
    for gesture in gestures:
        run = out / gesture
        make = partial(
            generation.generate, prompts=real, gesture=gesture, seeds=seeds, limit=limit, batch=batch, device=device
        )
        _note(gesture, "images of the base model")
        untuned = make(base, out=run / "images" / "base", options=replace(generate, mu=None))
        _note(gesture, "training")
        _train(dataset, gesture, base, run, preset, lam, device)
        _note(gesture, "images of the tuned model")
        tuned = make(run / "model", out=run / "images" / "tuned", options=generate)
        file = run / "evaluation.json"
        if not _is_evaluated(file, tuned, untuned, evaluate):
            _note(gesture, "metrics")
            scores = evaluation.evaluate(
                real=real, fake=tuned, base=untuned, gesture=gesture, device=device, options=evaluate
            )
            scores.write(file)
    return report([out / gesture for gesture in gestures], out / "report.html", title="Hand1000, reproduced")


def planned(
    dataset: str | Path,
    *,
    base: str | Path,
    out: str | Path,
    gestures: Sequence[str],
    preset: str,
    lam: float | None,
    split: str,
    limit: int,
    seeds: Sequence[int],
    generate: GenerateOptions,
    device: str,
    **_: Any,
) -> str:
    """Check the arguments of `reproduce` for all gestures and return what it would do and need, in lines."""
    if launched().count > 1:
        raise UserError("reproduce runs as a single process: launch train and generate in several instead")
    if not gestures:
        raise UserError("--gestures is empty: leave it out for the paper's six")
    lines = []
    for gesture in gestures:
        prompts = len(load(parse(str(dataset), "--dataset"), gesture, split, limit).rows)
        images = 2 * prompts * len(seeds)
        passes = images * generation.steps_of(generate) * 2  # with and without the prompt
        lines.append(f"{gesture}: {images:,} images, base and tuned, {passes:,} passes of the UNet")
        lines.append(_train(dataset, gesture, base, Path(out) / gesture, preset, lam, device, dry_run=True))
    return "\n".join(lines)


def _note(gesture: str, part: str) -> None:
    print(f"handtrain: {gesture}, {part}", file=sys.stderr)


def _train(
    dataset: str | Path, gesture: str, base: str | Path, out: Path, preset: str, lam: float | None, device: str,
    dry_run: bool = False,
) -> str:  # fmt: skip
    options = options_of(preset) if lam is None else replace(options_of(preset), lam=lam)
    place, model = parse(str(dataset), "--dataset"), parse_model(str(base), "--base")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        train.train(train.Job(place, gesture, model, out, options, RunOptions(), preset, device, dry_run=dry_run))
    return printed.getvalue().strip()


def _is_evaluated(file: Path, fake: Path, base: Path, options: EvaluateOptions) -> bool:
    """Return whether the file is an evaluation of these very images with these options."""
    record = read_json(file)
    if record is None or record["format"] != evaluation.FORMAT or record["options"] != recorded(options):
        return False
    return all(
        record[side]["sha256"] == folder_set(folder, side).fingerprint()
        for side, folder in (("fake", fake), ("base", base))
    )
