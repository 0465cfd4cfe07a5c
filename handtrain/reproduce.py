"""Reproduce the paper's table: generate, train and evaluate for every gesture, then write one report."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from handdata.errors import UserError
from handdata.gestures import PAPER_GESTURES
from handdata.huggingface import parse_dataset
from handdata.readers import read_json
from handtrain.data.dataset import load, require_trainable
from handtrain.evaluation import evaluate as evaluation
from handtrain.evaluation.image_sets import folder_set
from handtrain.evaluation.records import fault_of
from handtrain.generation import generate as generation
from handtrain.generation.sampling import guidance_of
from handtrain.options import EvaluateOptions, GenerateOptions, recorded
from handtrain.presets import RunOptions, TrainOptions, options_of, routes
from handtrain.reporting.report import report
from handtrain.run.cost import Cost, training_flop, work_of_base, work_of_vae
from handtrain.run.footprint import footprint, gib
from handtrain.run.memory import Memory
from handtrain.run.processes import launched
from handtrain.training.setup import Setup, set_up
from handtrain.training.train import train

RESULT = "evaluation.json"


def reproduce(
    dataset: str | Path,
    *,
    base: str | Path,
    out: str | Path,
    gestures: Sequence[str] = PAPER_GESTURES,
    split: str = "test",
    limit: int = 0,
    seeds: Sequence[int] = (0,),
    generate: GenerateOptions | None = None,
    evaluate: EvaluateOptions | None = None,
    batch: int | Literal["auto"] = "auto",
    device: str = "auto",
    **training: Any,
) -> Path:
    """Run the chain for every gesture in OUT/GESTURE, then write OUT/report.html and return its path.

    The texts of `split` are the prompts, its images the real ones. `training` are arguments of `train`, such as preset
    and lam. The same call resumes. Raises `UserError` for a mistake in any gesture before the first image is generated.
    """
    out, generate, evaluate = Path(out), generate or GenerateOptions(), evaluate or EvaluateOptions()
    training = {"base": base, "device": device, **training}
    stated: dict[str, Any] = {"prediction_type": training.get("prediction_type")}
    if generate.guidance is None:  # the same for both sides
        posed = training.get("pose", (training.get("options") or options_of(training.get("preset", "paper"))).pose)
        generate = replace(generate, guidance=guidance_of(posed != "none"))
    checked = {name: value for name, value in training.items() if name not in ("cache", "verify", "progress")}
    plan = planned(dataset, gestures=gestures, split=split, limit=limit, seeds=seeds, generate=generate, **checked)
    print(plan, file=sys.stderr)
    for gesture in gestures:
        run, real = out / gesture, f"{dataset}:{split}"
        make = partial(generation.generate, prompts=real, gesture=gesture, seeds=seeds, limit=limit, batch=batch)
        _note(gesture, "images of the base model")
        untuned = make(base, out=run / "images" / "base", device=device, options=_plainly(generate), **stated)
        _note(gesture, "training")
        model = train(dataset, gesture=gesture, out=run, **training).model
        _note(gesture, "images of the tuned model")
        tuned = make(model, out=run / "images" / "tuned", device=device, options=generate)
        if not _is_evaluated(run / RESULT, tuned, untuned, evaluate):
            _note(gesture, "metrics")
            scores = evaluation.evaluate(
                real=real, fake=tuned, base=untuned, gesture=gesture, device=device, options=evaluate
            )
            scores.write(run / RESULT)
    return report([out / gesture for gesture in gestures], out / "report.html", title="Hand1000, reproduced")


def planned(
    dataset: str | Path,
    *,
    gestures: Sequence[str],
    split: str,
    limit: int,
    seeds: Sequence[int],
    generate: GenerateOptions,
    **training: Any,
) -> str:
    """Check the arguments of `reproduce` for all gestures and return the images, steps, memory, disk space and time."""
    if launched().count > 1:
        raise UserError("reproduce runs as a single process: launch train and generate in several instead")
    if not gestures:
        raise UserError("--gestures is empty: leave it out for the paper's six")
    for gesture in gestures:
        require_trainable(str(dataset), (gesture,), "--gestures")
        if gesture == "all":
            raise UserError("--gestures all is a mixture of all gestures: name one of them, for instance call")
    lines, flop, disk, total = [], 0.0, 0, 0
    for gesture in gestures:
        setup = _set_up(dataset, gesture, **training)
        if not routes(setup.options) and (generate.pose != "own" or generate.pose_guidance is not None):
            raise UserError("--generate.pose and --generate.pose-guidance need a training with --pose: leave them out")
        prompts = len(load(parse_dataset(str(dataset), "--dataset"), gesture, split, limit).rows)
        images = 2 * prompts * len(seeds)
        passes = images * generation.steps_of(generate) * 2  # with and without the prompt
        lines.append(f"{gesture}: {images:,} images, base and tuned, {passes:,} passes of the UNet")
        lines += [str(setup.plan), str(footprint(Memory(setup.base), setup.options, setup.running))]
        flop += training_flop(setup.plan, setup.base)
        flop += passes * work_of_base(setup.base).forward + images * work_of_vae(setup.base)[1]
        disk += setup.plan.disk_bytes + 3 * images * setup.base.resolution**2  # of images that are not compressed
        total += images
    lines.append(f"all gestures: {total:,} images, {gib(disk)} of disk at most; without the metrics' own networks")
    return "\n".join([*lines, str(Cost(flop, setup.device, 1))])


def _set_up(
    dataset: str | Path, gesture: str, *, base: str | Path, preset: str = "paper", device: str = "auto",
    options: TrainOptions | None = None, running: RunOptions | None = None, prediction_type: str | None = None,
    fit: str | None = None, given: Collection[str] = (), **changes: Any,
) -> Setup:  # fmt: skip
    return set_up(
        str(dataset), gesture, str(base), preset, options, running, device, changes, None, prediction_type, fit, given
    )


def _plainly(generate: GenerateOptions) -> GenerateOptions:
    """Return the options for the base, which has neither a gesture feature nor poses."""
    return replace(generate, mu=None, pose="own", pose_guidance=None)


def _note(gesture: str, part: str) -> None:
    print(f"handtrain: {gesture}, {part}", file=sys.stderr)


def _is_evaluated(file: Path, fake: Path, base: Path, options: EvaluateOptions) -> bool:
    """Return whether the file is an evaluation of exactly these images with these options."""
    record = read_json(file)
    if fault_of(record) or record.get("format") != evaluation.FORMAT or record.get("options") != recorded(options):
        return False
    return all(
        record.get(side, {}).get("sha256") == folder_set(folder, side).fingerprint()
        for side, folder in (("fake", fake), ("base", base))
    )
