"""Write one page from runs: metrics next to the paper's, loss curves, picture grids, sweeps over lam and mu, cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.files import require_writable_folder, write_text
from handdata.markdown import escaped
from handtrain.reporting import tables
from handtrain.reporting.page import page
from handtrain.reporting.runs import RunRecord, read_run, sweeps


def report(runs: Sequence[Any], out: str | Path, *, title: str = "hand1000", pictures: int = 6) -> Path:
    """Write the page and, next to it, its tables as Markdown; return the path of the page.

    `runs` are run folders or results of `handtrain.train`; `pictures` is the number of rows of a picture grid. Raises
    `UserError` for a folder without a run.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} must end in .html: the page is one HTML file")
    if not runs:
        raise UserError("name at least one run folder")
    records = [read_run(Path(getattr(run, "path", run))) for run in runs]
    require_writable_folder(out.parent, "--out")
    write_text(out, page(records, title, pictures))
    write_text(out.with_suffix(".md"), markdown(records, title))
    return out


def markdown(runs: Sequence[RunRecord], title: str) -> str:
    """Return the tables of the report as Markdown; only the page has the pictures."""
    parts = [f"# {escaped(title)}"]
    for run in runs:
        parts += [f"## {escaped(tables.heading(run))}", tables.summary_table(run).markdown()]
        if phases := tables.phase_table(run):
            parts += ["### Phases", phases.markdown()]
        for evaluation in run.evaluations:
            parts += [
                f"### {escaped(tables.evaluation_heading(evaluation))}",
                tables.metric_table(evaluation).markdown(),
            ]
            parts += [escaped(sentence) for sentence in tables.remarks(evaluation)]
    for name, _, points in sweeps(runs):
        parts += [f"## Sweep over {name}", tables.sweep_table(name, points).markdown()]
    return "\n\n".join(parts) + "\n"
