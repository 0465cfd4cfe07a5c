"""Make the paper's table with ours beside it: a thin chain of generate, train, evaluate and report, per gesture."""

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.huggingface import Place
from handtrain.data.dataset import load
from handtrain.evaluation import evaluate
from handtrain.evaluation.image_sets import folder_set
from handtrain.generation import generate
from handtrain.options import EvaluateOptions, GenerateOptions
from handtrain.reporting.report import report
from handtrain.run.processes import launched
from handtrain.training import train


@dataclass(frozen=True)
class Plan:
    """What the command line of `handtrain reproduce` says."""

    dataset: Place
    base: Place
    out: Path
    gestures: tuple[str, ...]
    preset: str = "paper"
    lam: float | None = None
    split: str = "test"
    limit: int = 0
    seeds: tuple[int, ...] = (0,)
    generate: GenerateOptions = field(default_factory=GenerateOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    batch: int = 4
    device: str = "auto"
    dry_run: bool = False

    @property
    def real(self) -> str:
        """The real images, as `evaluate` names them."""
        return f"{self.dataset}:{self.split}"


def reproduce(plan: Plan) -> int:
    """Run the chain for every gesture, then write OUT/report.html; return the exit code.

    Everything that can be wrong is looked at for all gestures before the first image is made.
    """
    if launched().count > 1:
        raise UserError("reproduce runs as a single process: launch train and generate in several instead")
    if not plan.gestures:
        raise UserError("--gestures names no gesture: leave it out for the paper's six")
    for gesture in plan.gestures:
        _say_cost(plan, gesture)
    if plan.dry_run:
        return 0
    for gesture in plan.gestures:
        _one_gesture(plan, gesture)
    return report(
        [plan.out / gesture for gesture in plan.gestures], plan.out / "report.html", "Hand1000, reproduced", 6
    )


def _say_cost(plan: Plan, gesture: str) -> None:
    """Check the parts of a gesture and say what they will cost."""
    prompts = len(load(plan.dataset, gesture, plan.split, plan.limit).rows)
    images = 2 * prompts * len(plan.seeds)
    passes = images * generate.steps_of(plan.generate) * 2  # with and without the prompt
    print(f"{gesture}: {images:,} images, base and tuned, {passes:,} passes of the UNet")
    print(train.plan_run(**_training(plan, gesture)))


def _one_gesture(plan: Plan, gesture: str) -> None:
    run = plan.out / gesture
    print(f"handtrain: {gesture}, images of the base model", file=sys.stderr)
    base = _generation(plan, gesture, plan.base, run / "images" / "base")
    generate.generate(base)
    print(f"handtrain: {gesture}, training", file=sys.stderr)
    train.train(**_training(plan, gesture), out=run)
    print(f"handtrain: {gesture}, images of the tuned model", file=sys.stderr)
    tuned = _generation(plan, gesture, run / "model", run / "images" / "tuned")
    generate.generate(tuned)
    job = evaluate.Job(
        plan.real,
        tuned.out,
        base.out,
        gesture,
        options=plan.evaluate,
        json=run / "evaluation.json",
        device=plan.device,
    )
    if not _is_evaluated(job):
        print(f"handtrain: {gesture}, metrics", file=sys.stderr)
        evaluate.evaluate(job)


def _training(plan: Plan, gesture: str) -> dict[str, Any]:
    changes = {} if plan.lam is None else {"lam": plan.lam}
    places = {"dataset": plan.dataset, "base": plan.base}
    return {**places, "gesture": gesture, "preset": plan.preset, "device": plan.device, **changes}


def _generation(plan: Plan, gesture: str, model: Place, out: Path) -> generate.Job:
    return generate.Job(
        model,
        out,
        prompts=plan.real,
        gesture=gesture,
        seeds=plan.seeds,
        options=plan.generate if out.name == "tuned" else replace(plan.generate, mu=None),
        limit=plan.limit,
        batch=plan.batch,
        device=plan.device,
    )


def _is_evaluated(job: evaluate.Job) -> bool:
    """Return whether the evaluation that is there is of these very images with these options."""
    if job.json is None or not job.json.is_file():
        return False
    found: dict[str, Any] = json.loads(job.json.read_text(encoding="utf-8"))
    assert job.base is not None
    sides = (("fake", job.fake), ("base", job.base))
    if found["format"] != evaluate.FORMAT:
        return False
    same_options = found["options"] == json.loads(json.dumps(asdict(job.options), default=str))
    return same_options and all(found[side]["sha256"] == folder_set(place, side).fingerprint() for side, place in sides)
