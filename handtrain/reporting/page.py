"""The report as one HTML page that contains its pictures and curves."""

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from handdata.vision.pixels import UnreadableImage
from handtrain.data.image_folder import read_prompts
from handtrain.reporting import charts, tables
from handtrain.reporting.pictures import picture
from handtrain.reporting.runs import Evaluation, RunRecord, sweeps


def page(runs: Sequence[RunRecord], title: str, pictures: int) -> str:
    """Return the report as one HTML file that refers to no other file."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for run in runs:
        parts += _run(run, pictures)
    for name, gesture, points in sweeps(runs):
        parts.append(f"<h2>Sweep over {name}: {html.escape(gesture)}</h2>")
        parts.append(_table(tables.sweep_table(name, points)))
        parts.append(f"<div class=chart>{charts.sweep_curves(name, points)}</div>")
        folders = {f"{name} {value:g}": Path(evaluation["fake"]["source"]) for value, evaluation in points}
        parts.append(_grid(folders, pictures))
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), body="\n".join(parts))


def _run(run: RunRecord, pictures: int) -> Iterator[str]:
    yield f"<h2>{html.escape(tables.heading(run))}</h2>"
    for evaluation in run.evaluations:
        yield from _evaluation(evaluation, pictures)
    if not run.evaluations:
        yield _note("Not evaluated yet: <code>handtrain evaluate --json RUN/evaluation.json</code>")
    files = sorted((run.folder / "samples").glob("*.png"))
    if files:
        figures = "".join(
            f"<figure>{_image(file, 720)}<figcaption>{html.escape(file.stem)}</figcaption></figure>"
            for file in dict.fromkeys((files[0], files[-1]))
        )
        yield f"<h3>Samples during training, first and last</h3><div class=pair>{figures}</div>"
    for name, curves in (
        ("Loss", charts.loss_curves(run.log)),
        ("Evaluations during training", charts.evaluation_curves(run.log)),
    ):
        if curves:
            yield f"<h3>{name}</h3><div class=chart>{curves}</div>"
    yield "<h3>Options and cost</h3>"
    yield _table(tables.summary_table(run))
    if phases := tables.phase_table(run):
        yield f"<h3>Phases</h3>{_table(phases)}"


def _evaluation(evaluation: Evaluation, pictures: int) -> Iterator[str]:
    yield f"<h3>{html.escape(tables.evaluation_heading(evaluation))}</h3>"
    if chart := charts.difference_chart(evaluation):
        yield f"<h4>Tuned minus base, with intervals</h4><div class=chart>{chart}</div>"
    names = {"base": "base", "fake": "tuned"}
    folders = {names[side]: Path(evaluation[side]["source"]) for side in names if evaluation.get(side)}
    grid = _grid(folders, pictures)
    if grid:
        yield f"<h3>Same prompts, same seeds</h3>{grid}"
    else:
        places = ", ".join(map(str, folders.values()))
        yield _note(f"No pictures: {html.escape(places)} has no images with prompts.")
    table = tables.metric_table(evaluation)
    missing = [number for number in range(len(table.rows)) if table.marks.get(number) == "missing"]
    yield _table(_rows(table, [number for number in range(len(table.rows)) if number not in missing]))
    if missing:
        yield f"<details><summary>Not computed: {len(missing)}</summary>{_table(_rows(table, missing))}</details>"
    yield from (_note(html.escape(sentence)) for sentence in tables.remarks(evaluation))


def _rows(table: tables.Table, numbers: Sequence[int]) -> tables.Table:
    marks = {place: table.marks[number] for place, number in enumerate(numbers) if number in table.marks}
    return tables.Table(table.head, [table.rows[number] for number in numbers], marks)


def _note(text: str) -> str:
    return f"<p class=note>{text}</p>"


def _grid(folders: dict[str, Path], pictures: int) -> str:
    """Return a table of pictures: a row per image that all folders have, a column per folder; empty without any."""
    prompts = [_prompts(folder) for folder in folders.values()]
    shared = {name: text for name, text in prompts[0].items() if all(name in others for others in prompts)}
    if not shared:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("prompt", *folders))
    rows = []
    for name in spread(shared)[:pictures]:
        cells = "".join(f"<td>{_image(folder / name, 256)}</td>" for folder in folders.values())
        words = f"{html.escape(shared[name])}<br><small>{html.escape(name)}</small>"
        rows.append(f"<tr><td class=prompt>{words}</td>{cells}</tr>")
    return f"<div class=table><table class=grid><tr>{head}</tr>{''.join(rows)}</table></div>"


def spread(prompts: dict[str, str]) -> list[str]:
    """Return the names of images, given with their prompts: the first of every prompt before any second one."""
    seen: Counter[str] = Counter()
    turns = {}
    for name, prompt in prompts.items():
        turns[name] = seen[prompt]
        seen[prompt] += 1
    return sorted(prompts, key=lambda name: turns[name])


def _image(file: Path, longest: int) -> str:
    try:
        return f"<img src='{picture(file, longest)}' alt=''>"
    except UnreadableImage:
        return "cannot be decoded"


def _prompts(folder: Path) -> dict[str, str]:
    """Return prompts by file name; missing files and names with a path to another folder are left out."""
    prompts = read_prompts(folder)
    return {name: text for name, text in prompts.items() if Path(name).name == name and (folder / name).is_file()}


def _table(table: tables.Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = []
    for number, row in enumerate(table.rows):
        mark = table.marks.get(number, "")
        cells = [(cell, 1) for cell in row]
        if mark == "missing":
            cells[2:6] = [(row[2], 4)]  # the reason takes the place of four values
        columns = "".join(f"<td colspan={width}>{html.escape(cell)}</td>" for cell, width in cells)
        rows.append(f"<tr class='{mark}'>{columns}</tr>")
    return f"<div class=table><table>{f'<tr>{head}</tr>' if any(table.head) else ''}{''.join(rows)}</table></div>"
