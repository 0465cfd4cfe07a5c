"""The speed of the stages on this machine, measured by earlier builds and kept in the cache folder.

A record holds for a stage with the same work per row: the same model, device and image size. Runs of fewer than 32
images are not recorded, since their time is that of loading.
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handdata.assets import cache_folder
from handdata.errors import UserError
from handdata.files import exclusive, read_sealed_json, write_sealed_json
from handdata.recipe import Recipe
from handdata.rows.shards import SHARD_ROWS
from handdata.stages import StageReport, stage_named
from handdata.web.urls import is_remote

FILE = "rates.json"
_LEAST = 32  # images of a run that is recorded
_KEPT = 8  # records of one kind of work
_NEAR = 8  # greatest ratio of a planned amount to that of a small run

# Assumptions for work that no build has measured: seconds per unit on a CPU, and on a GPU. Those of the drawn world,
# of landmarks and of small stages are near the two cores of docs/benchmarks.md; captions and texts are guesses.
ASSUMED: dict[str, tuple[float, float]] = {
    "select": (0.1, 0.1),  # per picture of the drawn world
    "annotations": (20.0, 20.0),  # per gesture
    "fetch": (0.002, 0.002),  # from a local archive
    "facts": (0.005, 0.005),
    "landmarks": (0.03, 0.03),
    "caption": (3.0, 0.1),
    "rewrite": (20.0, 0.5),
    "check": (0.001, 0.001),
    "assemble": (0.005, 0.005),
}


@dataclass(frozen=True)
class Record:
    """One run of a stage."""

    units: int
    seconds: float
    date: str


def kind_of_work(stage: str, recipe: Recipe) -> str:
    """Return the text that two runs of a stage share if a unit of theirs costs the same."""
    drawn, side = recipe.source.kind == "render", recipe.image.short_side
    pixels = f"{min(side or recipe.render.size, recipe.render.size) if drawn else side or 'all'} px"
    caption, rewrite = recipe.caption, recipe.rewrite
    details = {
        "select": f"drawn, {recipe.render.size} px" if drawn else f"annotations, {_hosts(recipe.source.annotations)}",
        "fetch": "local" if drawn else _hosts(recipe.source.images),
        "landmarks": f"{pixels}, at least {recipe.landmarks.min_side} px",
        "caption": f"{_name(caption.model)}, {device(stage, recipe)}, {caption.dtype}, {caption.max_new_tokens} tokens",
        "rewrite": f"{_name(rewrite.model)}, {device(stage, recipe)}, {rewrite.max_tokens} tokens,"
        f" {rewrite.retries} retries",
    }
    return f"{stage}: {details.get(stage, pixels)}"


def units(stage: str, recipe: Recipe, rows: int) -> int:
    """Return the amount of work: drawn pictures or gestures of annotations for `select`, else images."""
    if stage != "select":
        return rows
    render = recipe.render
    names = len(render.gestures or recipe.select.gestures)
    per_gesture = (render.train + render.validation + render.test) * (2 if render.pairs else 1)
    return names * per_gesture if recipe.source.kind == "render" else len(recipe.select.gestures)


def device(stage: str, recipe: Recipe) -> str:
    """Return where a stage's model runs: cpu, cuda or server. A device file decides: torch is not loaded for it."""
    options: Any = {"caption": recipe.caption, "rewrite": recipe.rewrite}.get(stage)
    if options is None:
        return "cpu"
    if options.server:
        return "server"
    on_gpu = Path("/dev/nvidia0").exists() and getattr(options, "device", "auto") != "cpu"
    return "cuda" if on_gpu and getattr(options, "gpu_layers", -1) else "cpu"


def record(recipe: Recipe, reports: dict[str, StageReport], seconds: dict[str, float], workers: int) -> None:
    """Keep the speed of the stages that did all their work in this run; a cache that cannot be written is named."""
    if recipe.source.kind == "photos":  # they need no plan, and texts that came with them take no time
        return
    measured = {}
    for name, report in reports.items():
        if report.rows >= _LEAST and _made_all(name, report):
            stated: int = getattr(getattr(recipe.resources, name, None), "workers", 0)
            parallel = min(stated or workers, report.made_shards) if report.made_shards else 1
            amount = units(name, recipe, report.rows)
            entry = Record(amount, round(seconds[name] * parallel, 3), time.strftime("%Y-%m-%d"))
            measured[kind_of_work(name, recipe)] = entry
    if not measured:
        return
    path = cache_folder() / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_name(f".{FILE}.lock")):
            table = read_sealed_json(path) or {}
            for key, entry in measured.items():
                others = [old for old in table.get(key, []) if old["units"] != entry.units]
                table[key] = [*others, asdict(entry)][-_KEPT:]
            write_sealed_json(path, table)
    except (OSError, UserError) as error:
        print(f"handdata: the measured times are not kept ({error})", file=sys.stderr)


def recorded(stage: str, recipe: Recipe, amount: int) -> Record | None:
    """Return the record of this kind of work whose amount is the nearest, None without one that can be scaled.

    The time of a run of less than a shard is mostly that of loading: it holds for at most eight times its amount.
    """
    table = read_sealed_json(cache_folder() / FILE) or {}
    records = [Record(**entry) for entry in table.get(kind_of_work(stage, recipe), [])]
    records = [entry for entry in records if entry.units >= SHARD_ROWS or amount <= _NEAR * entry.units]
    return min(records, key=lambda entry: abs(entry.units - amount), default=None)


def assumed(stage: str, recipe: Recipe) -> float:
    """Return the seconds per unit that are assumed for work that was not measured."""
    name = "annotations" if stage == "select" and recipe.source.kind != "render" else stage
    return ASSUMED[name][device(stage, recipe) != "cpu"]


def _made_all(name: str, report: StageReport) -> bool:
    if stage_named(name).columns and name != "fetch":
        return report.made_shards > 0 and report.kept_shards == 0
    return report.made_rows == report.rows


def _hosts(places: tuple[str, ...]) -> str:
    """Return the host of the first place, or the name of an archive in sources.toml."""
    if places and is_remote(places[0]):
        return str(urlsplit(places[0]).hostname)
    return places[0] if places and "/" not in places[0] else "local"


def _name(model: str) -> str:
    return Path(model).name if model.startswith("/") else model
