"""The tables and sentences of a report, as plain text that becomes HTML or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from handdata.markdown import markdown_table
from handtrain.evaluation.scores import Estimate, computed_first
from handtrain.evaluation.table import LOWER_IS_BETTER
from handtrain.reporting.runs import Evaluation, Points, RunRecord
from handtrain.run import phases

# Tuned minus Stable Diffusion 1.4, phone call; computed as in the released code (paper, table 2)
PAPER = {"FID": -28.599, "KID": -0.017, "FID-H": -30.208, "KID-H": -0.041, "HAND-CONF": 0.053}
PAPER_GESTURE = "call"

_NOTES = (
    "FID depends on the number of images: compare sets of equal size; the column 'own bias' estimates the effect.",
    "HAND-CONF ignores images without a hand: read it together with the hand-found rate.",
    "Intervals are 95 %. The difference is tuned minus base on the same prompts and seeds, with its own interval.",
)


@dataclass(frozen=True)
class Table:
    """A table of plain text."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    marks: dict[int, str] = field(default_factory=dict)  # better, worse or missing, by index of the row

    def markdown(self) -> str:
        """Return the table in Markdown, without the marks."""
        return markdown_table(self.head, self.rows)


def heading(run: RunRecord) -> str:
    """Return the title of a run."""
    return f"{run.gesture or 'run'}: {run.folder.name}"


def evaluation_heading(evaluation: Evaluation) -> str:
    """Return the title of an evaluation."""
    mu = evaluation.get("settings", {}).get("fake", {}).get("mu")
    return "Metrics" + (f" at mu {mu:g}" if mu is not None else "")


def metric_table(evaluation: Evaluation) -> Table:
    """Return every metric in its variants, with the paper's difference next to ours if it has one.

    Metrics that were not computed come last.
    """
    head = ("metric", "variant", "real", "base", "generated", "difference", "paper", "own bias", "n real, generated")
    rows: list[tuple[str, ...]] = []
    marks = {}
    of_paper = evaluation.get("gesture") == PAPER_GESTURE
    for name, variant, entry in computed_first(evaluation["metrics"]):
        paper = f"{PAPER[name]:+g}" if of_paper and variant == "reference" and name in PAPER else ""
        mark = mark_of(entry, LOWER_IS_BETTER[name])
        if mark:
            marks[len(rows)] = mark
        rows.append((f"{name} {arrow(LOWER_IS_BETTER[name])}", variant, *_cells(entry, paper)))
    return Table(head, rows, marks)


def summary_table(run: RunRecord) -> Table:
    """Return the options and the cost of a run."""
    config = run.record.get("config", {})
    steps = [line for line in run.log if "loss" in line and "images_per_s" in line]
    rows = [(name, _place(config.get(name))) for name in ("base", "dataset")]
    chosen = ("lam", "fusion", "crop", "unet_epochs", "unet_batch", "unet_lr", "seed")
    rows.append(("options", ", ".join(f"{name} {run.options[name]}" for name in chosen if name in run.options)))
    for stage in sorted({line["stage"] for line in steps}):
        of_stage = [(len(line.get("image_ids", [0])), line["images_per_s"]) for line in steps if line["stage"] == stage]
        images, seconds = sum(count for count, _ in of_stage), sum(count / rate for count, rate in of_stage if rate)
        rows.append((f"stage {stage}", f"{len(of_stage):,} steps, {images:,} images, {_duration(seconds)}"))
    memory = max((line["peak_mib"] for line in run.log if "peak_mib" in line), default=None)
    if memory is not None:
        rows.append(("peak memory", f"{memory:,.0f} MiB"))
    for evaluation in run.evaluations:
        for side, settings in evaluation.get("settings", {}).items():
            rows += [(f"generation, {side}", _session(session)) for session in settings.get("sessions", [])]
    rows.append(("state", f"finished {run.record['finished']}" if "finished" in run.record else "not finished"))
    return Table(("", ""), rows)


def phase_table(run: RunRecord) -> Table | None:
    """Return the seconds and bytes of the phases of the process that finished a run; None if it recorded none."""
    sessions = run.record.get("sessions")
    last = sessions[-1] if isinstance(sessions, list) and sessions else None
    record: Any = last.get("phases") if isinstance(last, dict) else None
    return Table(phases.HEAD, phases.rows(record)) if phases.is_record(record) else None


def sweep_table(name: str, points: Points) -> Table:
    """Return a metric per row and a value of lam or mu per column."""
    rows = []
    for metric, variants in points[0][1]["metrics"].items():
        for variant in variants:
            entries = [evaluation["metrics"].get(metric, {}).get(variant, {}) for _, evaluation in points]
            if any(entry.get("fake") for entry in entries):
                rows.append((metric, variant, *(_estimate(entry.get("fake")) for entry in entries)))
    return Table(("metric", "variant", *(f"{name} {value:g}" for value, _ in points)), rows)


def remarks(evaluation: Evaluation) -> list[str]:
    """Return the sentences that a reader needs to judge an evaluation: preparation, excluded images, notes."""
    sentences = [f"Preparation of both sides: {evaluation['preparation']}."]
    for side in ("real", "fake", "base"):
        images = evaluation.get(side, {"excluded": {}, "black": 0})
        for reason, names in images["excluded"].items():
            sentences.append(f"{side}: {len(names)} images were left out because each {reason}.")
        if images["black"]:
            sentences.append(f"{side}: {images['black']} images are black.")
        if images.get("one_colour"):
            sentences.append(f"{side}: {images['one_colour']} images are of one colour.")
    return [*sentences, *_NOTES]


def arrow(lower_is_better: bool) -> str:
    """Return the direction in which a metric improves."""
    return "↓" if lower_is_better else "↑"


def mark_of(entry: dict[str, Any], lower_is_better: bool) -> str:
    """Return better or worse if the interval of the difference excludes 0, missing for a metric without a value."""
    if "not_computed" in entry:
        return "missing"
    difference = Estimate.of(entry.get("difference"))
    if difference is None or difference.interval is None or difference.interval[0] <= 0 <= difference.interval[1]:
        return ""
    return "better" if (difference.value < 0) == lower_is_better else "worse"


def _cells(entry: dict[str, Any], paper: str) -> tuple[str, ...]:
    if "not_computed" in entry:
        return f"not computed: {entry['not_computed']}", "", "", "", paper, "", ""
    real = f"{entry['real']['value']:.4g}" if entry.get("real") else ""
    bias = (entry.get("fake") or {}).get("bias")
    counts = f"{entry['n'].get('real', 0):,}, {entry['n'].get('fake', 0):,} {entry['unit']}"
    sides = (_estimate(entry.get("base")), _estimate(entry.get("fake")), _estimate(entry.get("difference"), "+.4g"))
    return real, *sides, paper, f"{bias:.3g}" if bias is not None else "", counts


def _estimate(entry: dict[str, Any] | None, spec: str = ".4g") -> str:
    estimate = Estimate.of(entry)
    return format(estimate, spec) if estimate else ""


def _place(part: Any) -> str:
    if isinstance(part, dict):
        return " ".join(str(part[key]) for key in ("place", "revision") if part.get(key))
    return str(part or "")


def _session(session: dict[str, Any]) -> str:
    return f"{session['images']:,} images in {_duration(session['seconds'])} on {session['device']}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
