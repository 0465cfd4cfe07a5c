"""Write one page from runs: metrics beside the paper's, loss curves, picture grids, sweeps over lam and mu, cost."""

import html
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from handdata.errors import UserError
from handdata.files import require_writable_folder, write_text
from handtrain.evaluation.image_sets import GENERATION_FILE
from handtrain.evaluation.scores import LOWER_IS_BETTER
from handtrain.reporting import charts

# Tuned minus Stable Diffusion 1.4, phone call; with the released code's ways of computing (paper, table 2)
PAPER = {"FID": -28.599, "KID": -0.017, "FID-H": -30.208, "KID-H": -0.041, "HAND-CONF": 0.053}
PAPER_GESTURE = "call"

_NOTES = (
    "FID falls with the number of images alone: compare sets of one size, and mind its own bias, in its column.",
    "HAND-CONF does not see images without a hand: read it beside the hand-found rate.",
    "Intervals are 95 %. The difference is tuned minus base on the same prompts and seeds, with its own interval.",
)


@dataclass(frozen=True)
class Run:
    """What a report shows of a run folder."""

    folder: Path
    record: dict[str, Any]  # run.json
    log: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @property
    def gesture(self) -> str:
        """The gesture that the run was trained on."""
        return str(self.record.get("config", {}).get("gesture", ""))

    @property
    def options(self) -> dict[str, Any]:
        """The options of the training."""
        found: dict[str, Any] = self.record.get("config", {}).get("options", {})
        return found


@dataclass(frozen=True)
class Table:
    """A table of plain text, which becomes HTML or Markdown."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    marks: dict[int, str]  # class of a row, by its number


def report(folders: Sequence[Path], out: Path, title: str, pictures: int) -> int:
    """Write the page and its Markdown twin; return the exit code.

    Raises `UserError` for a folder that is no run.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} must end in .html: the page is one HTML file")
    if not folders:
        raise UserError("name at least one run folder")
    runs = [read_run(folder) for folder in folders]
    require_writable_folder(out.parent, "--out")
    write_text(out, page(runs, title, pictures))
    write_text(out.with_suffix(".md"), markdown(runs, title))
    print(out)
    return 0


def read_run(folder: Path) -> Run:
    """Read a run folder: run.json, log.jsonl and evaluation*.json. Raises `UserError` if it is none."""
    file = folder / "run.json"
    if not file.is_file():
        raise UserError(f"{folder} is no run folder (it has no run.json): name a folder that `handtrain train` made")
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    try:
        evaluations = [json.loads(one.read_text(encoding="utf-8")) for one in sorted(folder.glob("evaluation*.json"))]
        return Run(
            folder, json.loads(file.read_text(encoding="utf-8")), [json.loads(line) for line in lines], evaluations
        )
    except json.JSONDecodeError as error:
        raise UserError(f"{folder} holds a file that is not JSON ({error}): was it cut off?") from None


def page(runs: Sequence[Run], title: str, pictures: int) -> str:
    """Return the report as one HTML file with everything in it."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for run in runs:
        parts.append(f"<h2>{html.escape(heading(run))}</h2>")
        parts.append(_html_table(summary_table(run)))
        for evaluation in run.evaluations:
            parts += _html_evaluation(evaluation, pictures)
        if not run.evaluations:
            parts.append(
                "<p class=note>Not evaluated yet: <code>handtrain evaluate --json RUN/evaluation.json</code></p>"
            )
        curves = charts.loss_curves(run.log)
        if curves:
            parts.append(f"<h3>Loss</h3><div class=chart>{curves}</div>")
        judged = charts.evaluation_curves(run.log)
        if judged:
            parts.append(f"<h3>Evaluations during training</h3><div class=chart>{judged}</div>")
        parts += _html_samples(run)
    parts += _html_sweeps(runs, pictures)
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), body="\n".join(parts))


def markdown(runs: Sequence[Run], title: str) -> str:
    """Return the tables of the report as Markdown; the pictures are in the page alone."""
    parts = [f"# {_md(title)}"]
    for run in runs:
        parts += [f"## {_md(heading(run))}", md_table(summary_table(run))]
        for evaluation in run.evaluations:
            parts += [f"### {_md(evaluation_heading(evaluation))}", md_table(metric_table(evaluation))]
            parts += [_md(line) for line in remarks(evaluation)]
    for name, _, points in sweeps(runs):
        parts += [f"## Sweep over {name}", md_table(sweep_table(name, points))]
    return "\n\n".join(parts) + "\n"


def heading(run: Run) -> str:
    """Return the title of a run."""
    return f"{run.gesture or 'run'}: {run.folder.name}"


def evaluation_heading(evaluation: dict[str, Any]) -> str:
    """Return the title of an evaluation."""
    mu = evaluation.get("settings", {}).get("fake", {}).get("mu")
    return "Metrics" + (f" at mu {mu:g}" if mu is not None else "")


def metric_table(evaluation: dict[str, Any]) -> Table:
    """Return every metric in its variants, with the paper's difference beside ours where it has one."""
    head = ("metric", "variant", "real", "base", "generated", "difference", "paper", "own bias", "n real, generated")
    rows, marks = [], {}
    of_paper = evaluation.get("gesture") == PAPER_GESTURE
    for name, variants in evaluation["metrics"].items():
        arrow = "↓" if LOWER_IS_BETTER[name] else "↑"
        for variant, entry in variants.items():
            paper = f"{PAPER[name]:+g}" if of_paper and variant == "reference" and name in PAPER else ""
            if "not_computed" in entry:
                reason = f"not computed: {entry['not_computed']}"
                rows.append((f"{name} {arrow}", variant, reason, "", "", "", paper, "", ""))
                marks[len(rows) - 1] = "missing"
                continue
            verdict = _verdict(entry.get("difference"), LOWER_IS_BETTER[name])
            if verdict:
                marks[len(rows)] = verdict
            real = f"{entry['real']['value']:.4g}" if entry.get("real") else ""
            sides = (_value(entry.get(side)) for side in ("base", "fake"))
            cells = (real, *sides, _value(entry.get("difference"), sign=True))
            bias = (entry.get("fake") or {}).get("bias")
            counts = f"{entry['n'].get('real', 0):,}, {entry['n'].get('fake', 0):,} {entry['unit']}"
            rows.append((f"{name} {arrow}", variant, *cells, paper, f"{bias:.3g}" if bias is not None else "", counts))
    return Table(head, rows, marks)


def summary_table(run: Run) -> Table:
    """Return what the run was and what it cost."""
    config, steps = (
        run.record.get("config", {}),
        [line for line in run.log if "loss" in line and "images_per_s" in line],
    )
    rows = [(name, _place(config.get(name))) for name in ("base", "dataset")]
    chosen = ("lam", "fusion", "crop", "unet_epochs", "unet_batch", "unet_lr", "seed")
    rows.append(("options", ", ".join(f"{name} {run.options[name]}" for name in chosen if name in run.options)))
    for stage in sorted({line["stage"] for line in steps}):
        of_stage = [line for line in steps if line["stage"] == stage]
        images = sum(len(line.get("image_ids", [0])) for line in of_stage)
        seconds = sum(
            len(line.get("image_ids", [0])) / line["images_per_s"] for line in of_stage if line["images_per_s"]
        )
        rows.append((f"stage {stage}", f"{len(of_stage):,} steps, {images:,} images, {_duration(seconds)}"))
    memory = max((line["peak_mib"] for line in run.log if "peak_mib" in line), default=None)
    if memory is not None:
        rows.append(("peak memory", f"{memory:,.0f} MiB"))
    for evaluation in run.evaluations:
        for side, settings in evaluation.get("settings", {}).items():
            rows += [(f"generation, {side}", _session(one)) for one in settings.get("sessions", [])]
    rows.append(("state", f"finished {run.record['finished']}" if "finished" in run.record else "not finished"))
    return Table(("", ""), rows, {})


def remarks(evaluation: dict[str, Any]) -> list[str]:
    """Return what a reader must know of an evaluation: preparation, images left out, black ones."""
    found = [f"Preparation of both sides: {evaluation['preparation']}."]
    for side in ("real", "fake", "base"):
        about = evaluation.get(side)
        if not about:
            continue
        for reason, names in about["excluded"].items():
            found.append(f"{side}: {len(names)} images were left out because each {reason}.")
        if about["black"]:
            found.append(f"{side}: {about['black']} images are black.")
    return [*found, *_NOTES]


Points = list[tuple[float, Run, dict[str, Any]]]


def sweeps(runs: Sequence[Run]) -> Iterable[tuple[str, str, Points]]:
    """Yield (name, gesture, points by value) for lam and mu wherever evaluations differ in it."""
    for gesture in dict.fromkeys(run.gesture for run in runs):
        found = [(run, one) for run in runs if run.gesture == gesture for one in run.evaluations]
        for name in ("lam", "mu"):
            points = [
                (one["settings"]["fake"].get(name), run, one)
                for run, one in found
                if one.get("settings", {}).get("fake")
            ]
            known = sorted(
                ((float(v), run, one) for v, run, one in points if v is not None), key=lambda point: point[0]
            )
            if len({value for value, _, _ in known}) > 1:
                yield name, gesture, known


def sweep_table(name: str, points: Points) -> Table:
    """Return a metric per row and a value of lam or mu per column."""
    names = [(metric, variant) for metric, variants in points[0][2]["metrics"].items() for variant in variants]
    rows = []
    for metric, variant in names:
        entries = [one["metrics"].get(metric, {}).get(variant, {}) for _, _, one in points]
        if any(entry.get("fake") for entry in entries):
            rows.append((metric, variant, *(_value(entry.get("fake")) for entry in entries)))
    return Table(("metric", "variant", *(f"{name} {value:g}" for value, _, _ in points)), rows, {})


def _html_evaluation(evaluation: dict[str, Any], pictures: int) -> list[str]:
    parts = [f"<h3>{html.escape(evaluation_heading(evaluation))}</h3>", _html_table(metric_table(evaluation))]
    parts += [f"<p class=note>{html.escape(line)}</p>" for line in remarks(evaluation)]
    columns = {side: Path(evaluation[side]["source"]) for side in ("base", "fake") if evaluation.get(side)}
    grid = _grid({{"base": "base", "fake": "tuned"}[side]: folder for side, folder in columns.items()}, pictures)
    if grid:
        return [*parts, f"<h3>Same prompts, same seeds</h3>{grid}"]
    places = ", ".join(map(str, columns.values()))
    return [*parts, f"<p class=note>No pictures: {html.escape(places)} holds no images with their prompts.</p>"]


def _html_samples(run: Run) -> list[str]:
    files = sorted((run.folder / "samples").glob("*.png"))
    if not files:
        return []
    shown = [files[0], *([files[-1]] if len(files) > 1 else [])]
    figures = "".join(
        f"<figure>{_img(file, 720)}<figcaption>{html.escape(file.stem)}</figcaption></figure>" for file in shown
    )
    return [f"<h3>Samples during training, first and last</h3><div class=pair>{figures}</div>"]


def _html_sweeps(runs: Sequence[Run], pictures: int) -> list[str]:
    parts = []
    for name, gesture, points in sweeps(runs):
        parts.append(f"<h2>Sweep over {name}: {html.escape(gesture)}</h2>")
        parts.append(_html_table(sweep_table(name, points)))
        parts.append(f"<div class=chart>{charts.sweep_curves(name, [(value, one) for value, _, one in points])}</div>")
        parts.append(_grid({f"{name} {value:g}": Path(one["fake"]["source"]) for value, _, one in points}, pictures))
    return parts


def _grid(folders: dict[str, Path], pictures: int) -> str:
    """Return a table of pictures: a row per image that all folders hold, a column per folder; empty if none is."""
    lists = [_prompts(folder) for folder in folders.values()]
    shared = _spread({name: text for name, text in lists[0].items() if all(name in one for one in lists)})[:pictures]
    if not shared:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("prompt", *folders))
    rows = []
    for name in shared:
        cells = "".join(
            f"<td><img src='{charts.picture(folder / name, 256)}' alt=''></td>" for folder in folders.values()
        )
        rows.append(
            f"<tr><td class=prompt>{html.escape(lists[0][name])}<br><small>{html.escape(name)}</small></td>{cells}</tr>"
        )
    return f"<table class=grid><tr>{head}</tr>{''.join(rows)}</table>"


def _spread(prompts: dict[str, str]) -> list[str]:
    """Return names of images, given with their prompts, so that the first of every prompt come before the second."""
    seen: Counter[str] = Counter()
    turns = {}
    for name, prompt in prompts.items():
        turns[name] = seen[prompt]
        seen[prompt] += 1
    return sorted(prompts, key=lambda name: turns[name])


def _img(file: Path, longest: int) -> str:
    return f"<img src='{charts.picture(file, longest)}' alt=''>"


def _prompts(folder: Path) -> dict[str, str]:
    """Return prompts by file name; a name that leads out of the folder is passed over."""
    file = folder / GENERATION_FILE
    if not file.is_file():
        return {}
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {
        one["file"]: one["prompt"]
        for one in records
        if Path(one["file"]).name == one["file"] and (folder / one["file"]).is_file()
    }


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = []
    for number, row in enumerate(table.rows):
        mark = table.marks.get(number, "")
        shown = [(cell, 1) for cell in row]
        if mark == "missing":
            shown[2:6] = [(row[2], 4)]  # the reason takes the place of four values
        cells = "".join(f"<td colspan={width}>{html.escape(cell)}</td>" for cell, width in shown)
        rows.append(f"<tr class='{mark}'>{cells}</tr>")
    return f"<table>{f'<tr>{head}</tr>' if any(table.head) else ''}{''.join(rows)}</table>"


def md_table(table: Table) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(map(_md, table.head)) + " |", "|" + "---|" * len(table.head)]
    return "\n".join([*lines, *("| " + " | ".join(map(_md, row)) + " |" for row in table.rows)])


def _md(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _value(entry: dict[str, Any] | None, sign: bool = False) -> str:
    if entry is None:
        return ""
    plus = "+" if sign else ""
    value = format(entry["value"], f"{plus}.4g")
    return value if entry["low"] is None else f"{value} [{entry['low']:.4g}, {entry['high']:.4g}]"


def _verdict(difference: dict[str, Any] | None, lower_is_better: bool) -> str:
    """Return better or worse where the interval of the difference leaves 0 out, else nothing."""
    if difference is None or difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return ""
    return "better" if (difference["value"] < 0) == lower_is_better else "worse"


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
