"""Curves as SVG, so that a page refers to no other file."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from handtrain.evaluation.scores import Estimate
from handtrain.evaluation.table import LOWER_IS_BETTER
from handtrain.presets import LOWER_IS_BETTER as LOWER
from handtrain.reporting.runs import Evaluation, Points
from handtrain.reporting.tables import arrow, mark_of

_SMOOTHED = 60  # largest number of steps averaged for a point of the thick line


def difference_chart(evaluation: Evaluation) -> str:
    """Return tuned minus base with its interval, a panel per metric, as SVG; empty without a difference.

    Green: the interval excludes 0 and the metric improved; red: it got worse; grey: no interval or one that includes 0.
    """
    chosen = [
        (name, variant, estimate, mark_of(entry, LOWER_IS_BETTER[name]))
        for name, variants in evaluation["metrics"].items()
        for variant, entry in variants.items()
        if (estimate := Estimate.of(entry.get("difference")))
    ]
    if not chosen:
        return ""
    figure, axes = _figure(len(chosen), height=1.2)
    for axis, (name, variant, estimate, mark) in zip(axes, chosen, strict=True):
        colour = {"better": "#1a7f37", "worse": "#b42318"}.get(mark, "#5b6472")
        axis.axvline(0, color="#1c2026", linewidth=0.8)
        axis.plot([estimate.value], [0], "o", color=colour, markersize=5)
        if estimate.interval:
            axis.hlines(0, *estimate.interval, color=colour, linewidth=2)
        axis.set_yticks([])
        axis.set_title(f"{name} {arrow(LOWER_IS_BETTER[name])}, {variant}", fontsize=9)
    return _svg(figure)


def loss_curves(log: Sequence[dict[str, Any]]) -> str:
    """Return the losses of the stages and the validation loss over their steps as SVG; empty without any."""
    lines = [line for line in log if "loss" in line]
    stages = {stage: [line for line in lines if line.get("stage") == stage] for stage in (2, 3)}
    series = {stage: of_stage for stage, of_stage in stages.items() if of_stage}
    held_out = [(line["step"], line["validation_loss"]) for line in log if "validation_loss" in line]
    if not series:
        return ""
    figure, axes = _figure(len(series))
    for axis, (stage, of_stage) in zip(axes, series.items(), strict=True):
        steps = np.array([line.get("board_step", line["step"]) for line in of_stage])
        losses = np.array([line["loss"] for line in of_stage])
        window = max(1, min(_SMOOTHED, len(losses) // 10))
        axis.plot(steps, losses, color="#9ec1e8", linewidth=0.7, label="each step")
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axis.plot(steps[window - 1 :], smooth, color="#1f5fa8", linewidth=1.6, label=f"mean of {window}")
        if stage == 3 and held_out:
            axis.plot(
                *zip(*held_out, strict=True), "o-", color="#c2410c", markersize=3, linewidth=1.2, label="validation"
            )
        axis.set_title(f"stage {stage}")
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
        axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def evaluation_curves(log: Sequence[dict[str, Any]]) -> str:
    """Return the metrics of the evaluations during training over their steps as SVG; empty without any."""
    lines = [(line["step"], line["evaluation"]) for line in log if "evaluation" in line]
    names = [name for name in LOWER if any(values.get(name) is not None for _, values in lines)]
    if not names:
        return ""
    figure, axes = _figure(len(names))
    for axis, name in zip(axes, names, strict=True):
        points = [(step, values[name]) for step, values in lines if values.get(name) is not None]
        axis.plot(*zip(*points, strict=True), "o-", color="#1f5fa8", markersize=3, linewidth=1.2)
        axis.set_title(f"{name.replace('_', ' ')} {arrow(LOWER[name])}", fontsize=9)
        axis.set_xlabel("step")
    return _svg(figure)


def sweep_curves(name: str, points: Points) -> str:
    """Return every computed metric over the values of lam or mu as SVG, with its intervals."""
    chosen = [
        (metric, variant)
        for metric, variants in points[0][1]["metrics"].items()
        for variant in variants
        if all(evaluation["metrics"].get(metric, {}).get(variant, {}).get("fake") for _, evaluation in points)
    ]
    if not chosen:
        return ""
    figure, axes = _figure(len(chosen))
    for axis, (metric, variant) in zip(axes, chosen, strict=True):
        entries = [(value, evaluation["metrics"][metric][variant]["fake"]) for value, evaluation in points]
        axis.plot(
            *zip(*((value, entry["value"]) for value, entry in entries), strict=True),
            "o-",
            color="#1f5fa8",
            markersize=4,
        )
        known = [(value, entry["low"], entry["high"]) for value, entry in entries if entry["low"] is not None]
        if known:
            axis.vlines(*zip(*known, strict=True), color="#1f5fa8", alpha=0.4)
        axis.set_title(f"{metric} {arrow(LOWER_IS_BETTER[metric])}, {variant}", fontsize=9)
        axis.set_xlabel(name)
    return _svg(figure)


def _figure(count: int, height: float = 2.9) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(10 if columns > 1 else 6, height * rows), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def _svg(figure: Any) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hand1000"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
