"""A build folder and its ordered stages: make it, run it, run it again, say what became of every row."""

import dataclasses
import fcntl
import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from handdata.builds import engine
from handdata.errors import UserError
from handdata.files import require_writable_folder
from handdata.recipe import FetchOptions, ImageOptions, Recipe, SelectOptions, dump, load
from handdata.rows.schema import MANIFEST
from handdata.rows.shards import write_table
from handdata.sources.places import absolute
from handdata.stages import Execution, StageReport


@dataclass(frozen=True)
class Step:
    """One stage of a build: the command that runs it alone and what does the work."""

    name: str  # as `handdata <name>` and `--until` say it
    run: str  # "module:attribute": an engine's stage class, or a function (build folder, recipe, how) -> StageReport
    options: str | None  # the recipe's table for it


# The flow, in order. A later stage is one more line here.
STEPS: tuple[Step, ...] = (
    Step("select", "handdata.stages.select:run", "select"),
    Step("fetch", "handdata.stages.fetch:run", "fetch"),
    Step("facts", "handdata.stages.facts:ImageFacts", None),
    Step("landmarks", "handdata.stages.landmarks:HandLandmarks", "landmarks"),
    Step("caption", "handdata.stages.caption:Captions", "caption"),
    Step("rewrite", "handdata.stages.rewrite:Rewriting", "rewrite"),
    Step("check", "handdata.stages.check:FinalChecks", "check"),
    Step("assemble", "handdata.stages.assemble:run", "assemble"),
)


How = Execution


def start(recipe: Recipe, build: Path, option: str = "--out") -> None:
    """Make a build folder, or bring the recipe of an existing one up to date. Paths become absolute."""
    require_writable_folder(build, option)
    recipe = dataclasses.replace(recipe, source=absolute(recipe.source, Path.cwd()))
    _write_text(build / "recipe.toml", dump(recipe))


def open_recipe(build: Path) -> Recipe:
    """Return the recipe of a build folder. Raises `UserError` if the folder is none."""
    if not (build / "recipe.toml").is_file():
        raise UserError(f"{build} is no build folder: start one with `handdata build RECIPE --out {build}`")
    return load(build / "recipe.toml")


def start_from_manifest(manifest: Path, build: Path, options: FetchOptions) -> None:
    """Make a build folder from a manifest alone: its images are stored as the manifest says."""
    import pyarrow.parquet as pq

    require_writable_folder(build, "--out")
    table = read_foreign(manifest)
    stored = (table.schema.metadata or {}).get(b"hand1000:image", b"{}")
    gestures = tuple(dict.fromkeys(table["gesture"].to_pylist()))
    recipe = Recipe(
        name=build.name,
        select=SelectOptions(gestures=gestures),
        image=ImageOptions(**json.loads(stored)),
        fetch=options,
    )
    if not (build / "manifest.parquet").exists() or not pq.read_table(build / "manifest.parquet").equals(table, True):
        write_table(table, build / "manifest.parquet")
    start(recipe, build)


def run(build: Path, recipe: Recipe, steps: tuple[Step, ...], how: How) -> dict[str, StageReport]:
    """Run stages of a build in order; return what became of the rows of each. One process at a time on a build."""
    reports = {}
    with locked(build):
        for step in steps:
            reports[step.name] = run_step(build, recipe, step, how)
            _note(build, recipe, {step.name: _summary(reports[step.name])}, **reports[step.name].notes)
    return reports


def run_step(build: Path, recipe: Recipe, step: Step, how: How) -> StageReport:
    """Run one stage, whatever does its work."""
    module, _, attribute = step.run.partition(":")
    work: Any = getattr(importlib.import_module(module), attribute)
    if isinstance(work, type):
        options = getattr(recipe, step.options) if step.options else None
        if hasattr(work, "at_commit"):
            options = _pinned(build, recipe, step, work, options)
        return engine.run(work, options, build, how.engine, how.workers, how.progress)
    report: StageReport = work(build, recipe, how)
    return report


def until(name: str | None) -> tuple[Step, ...]:
    """Return the stages up to and with the named one, all without a name. Raises `UserError` for an unknown one."""
    names = [step.name for step in STEPS]
    if name is None:
        return STEPS
    if name not in names:
        raise UserError(f"--until {name} is no stage; the stages are {', '.join(names)}")
    return STEPS[: names.index(name) + 1]


def read_foreign(manifest: Path) -> pa.Table:
    """Read a manifest that somebody made. Raises `UserError` if the file is none."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(manifest)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"--manifest {manifest} cannot be read as Parquet: {error}") from None
    missing = [name for name in MANIFEST.names if name not in table.column_names]
    if missing:
        raise UserError(f"--manifest {manifest} lacks the column '{missing[0]}': it is not a manifest of handdata")
    return table


@contextmanager
def locked(build: Path) -> Iterator[None]:
    """Hold a build folder for this process. Raises `UserError` while another one works on it."""
    path = build / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"process {file.read().strip()} is working on {build}: wait for it or end it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _pinned(build: Path, recipe: Recipe, step: Step, work: Any, options: Any) -> Any:
    """Return a stage's options with a branch replaced by the commit that it stood for when this build first asked.

    The branch may move between two runs: the rows of one build then come from one model all the same.
    """
    asked = {"model": options.model, "revision": options.revision}
    path = build / "run.json"
    pins = json.loads(path.read_text()).get("pins", {}) if path.exists() else {}
    if pins.get(step.name, {}).get("asked") == asked:
        return dataclasses.replace(options, revision=pins[step.name]["commit"])
    settled = work.at_commit(options)
    if settled != options:
        _note(build, recipe, {}, pins={**pins, step.name: {"asked": asked, "commit": settled.revision}})
    return settled


def _summary(report: StageReport) -> dict[str, Any]:
    return {"rows": report.rows, "failed": dict(sorted(report.failed.items()))}


def _note(build: Path, recipe: Recipe, stages: dict[str, Any], **more: Any) -> None:
    """Bring `run.json` up to date: versions, seed, hashes of what went in, and what became of the rows."""
    path = build / "run.json"
    run: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    run |= {"name": recipe.name, "seed": recipe.select.seed, "versions": _versions(), **more}
    run["inputs"] = {"recipe": hashlib.sha256(dump(recipe).encode()).hexdigest()}
    manifest = build / "manifest.parquet"
    if manifest.exists():
        run["inputs"]["manifest"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
    run["stages"] = {**run.get("stages", {}), **stages}
    _write_text(path, json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    packages = ("hand1000", "pillow", "pyarrow", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
