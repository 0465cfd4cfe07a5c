"""The cost of a build, known before it starts: images, bytes, requests, disk, weights, and the time of every stage.

Times are those of earlier builds on this machine (`rates`), else assumptions, and each line names which.
"""

import json
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from handdata.errors import UserError
from handdata.gestures import also
from handdata.recipe import Recipe
from handdata.rows.decisions import Decisions
from handdata.rows.schema import SPLITS
from handdata.rows.selection import with_spares
from handdata.sources import archive
from handdata.sources.fetcher import Runs
from handdata.sources.http import Client
from handdata.sources.places import Sources, resolve
from handdata.stages import STAGES, select
from handdata.stages.fetch import manifest_jobs
from handdata.web.urls import is_remote
from handdata.weights.needed import Needed, needed
from handdata.workers import rates

# Assumptions for a host that was not measured, per connection: seconds to the first byte, bytes/s.
_LATENCY, _RATE = 0.1, 1e6


@dataclass(frozen=True)
class StageCost:
    """The time of one stage with one worker."""

    stage: str
    seconds: float
    basis: str  # where the seconds come from
    device: str  # cpu, cuda or server


@dataclass(frozen=True)
class Cost:
    """The cost of a build. `exact` is False for an estimate from the sizes in sources.toml."""

    name: str
    exact: bool
    images: dict[str, int]  # by split, spares included
    spares: int
    bytes: int  # to read, over the network or from local archives
    requests: int
    disk: int  # upper limit of the images, in bytes
    minutes: float | None  # of reading the images over the network; None if all sources are local
    latency: float  # seconds to the first byte, for the minutes
    rate: float  # bytes/s of one connection, for the minutes
    measured: bool  # latency and rate were measured while the index was read
    licence: str = "HaGRID's own public licence: attribution, share-alike, not a Creative Commons licence"
    stages: tuple[StageCost, ...] = ()
    models: tuple[Needed, ...] = ()

    @property
    def gpu_hours(self) -> float:
        """Hours of a GPU, all stages together."""
        return sum(stage.seconds for stage in self.stages if stage.device == "cuda") / 3600


def plan(recipe: Recipe, offline: bool) -> Cost:
    """Return the cost of a build of this recipe; unless `offline`, its annotations and archive indices are read.

    Unless `offline`, models are looked up on the Hub too. Raises `UserError` if a source cannot be read or is unknown
    to an offline plan, and for a model that does not exist.
    """
    cost = _of_images(recipe, offline)
    stages = tuple(_of_stage(stage.name, recipe, cost) for stage in STAGES)
    return replace(cost, stages=stages, models=tuple(needed(recipe, offline)))


def _of_images(recipe: Recipe, offline: bool) -> Cost:
    counts = {split: getattr(recipe.select, split) for split in SPLITS}
    gestures = len(recipe.select.gestures)
    images = {split: gestures * with_spares(count, recipe.select.spare) for split, count in counts.items()}
    total = sum(images.values())
    spares = total - gestures * sum(counts.values())
    if recipe.source.kind == "photos":
        raise UserError("[source] kind 'photos' needs no plan: its photographs are on this machine and are all taken")
    if recipe.source.kind == "render":
        return Cost(recipe.name, False, images, spares, 0, 0, total * 30_000, None, 0, 0, False, "none")
    sources = resolve(recipe.source, recipe.select.gestures, Path.cwd())
    size = total * sources.images[0].image_bytes
    cost = Cost(recipe.name, False, images, spares, size, total, size, None, _LATENCY, _RATE, False)
    if not offline:
        cost = _exact(recipe, sources, cost)
    if any(is_remote(source.places[0]) for source in sources.images):
        seconds = (cost.requests * cost.latency + cost.bytes / cost.rate) / recipe.fetch.connections
        cost = replace(cost, minutes=seconds / 60)
    return cost


def report(cost: Cost, as_json: bool = False) -> str:
    """Return the cost as lines for people, or as one JSON object."""
    if as_json:
        return json.dumps({**asdict(cost), "gpu_hours": cost.gpu_hours})
    about = "" if cost.exact else "about "
    images = ", ".join(f"{count:,} {split}" for split, count in cost.images.items())
    download = [model.download for model in cost.models]
    weights = _bytes(sum(size or 0 for size in download)) + (" and those of unknown size" if None in download else "")
    lines = [
        f"{cost.name}",
        f"images     {sum(cost.images.values()):,} ({images}; {cost.spares:,} of them spare)",
        f"to read    {about}{_bytes(cost.bytes)} in {about}{cost.requests:,} requests",
        f"disk       at most {about}{_bytes(cost.disk)} of images, as much again for the dataset, {weights} of weights",
    ]
    lines += [f"{'models' if not number else '':<11}{_model_line(model)}" for number, model in enumerate(cost.models)]
    lines += [f"{'time' if not number else '':<11}{_stage_line(stage)}" for number, stage in enumerate(cost.stages)]
    total = sum(stage.seconds for stage in cost.stages)
    lines.append(f"           {'total':<10} {_time(total):>13}  with one worker; {cost.gpu_hours:,.2f} GPU-hours")
    return "\n".join([*lines, f"licence    {cost.licence}"])


def _model_line(model: Needed) -> str:
    size = "unknown size" if model.download is None else f"{_bytes(model.download)} to download"
    states = {"server": "on the server", "this machine": "on this machine"}
    state = states.get(model.place) or (size if model.download != 0 else "in the cache")
    licence = model.licence or ("unknown" if model.place == "Hub" else "see the model")
    gate = "; gated: accept its terms on the Hub" if model.gated else ""
    return f"{model.stage:<10} {model.model}: {state}, licence {licence}{gate}"


def _stage_line(stage: StageCost) -> str:
    where = {"cuda": " on the GPU", "server": " on the server"}.get(stage.device, "")
    return f"{stage.stage:<10} {_time(stage.seconds):>13}{where}  ({stage.basis})"


def _of_stage(stage: str, recipe: Recipe, cost: Cost) -> StageCost:
    """Return the time of a stage: measured by an earlier build, or else assumed."""
    images = sum(cost.images.values())
    amount = rates.units(stage, recipe, images - cost.spares if stage == "assemble" else images)
    device, known = rates.device(stage, recipe), rates.recorded(stage, recipe, amount)
    if stage == "fetch" and cost.minutes is not None and (known is None or cost.measured):
        origin = "as observed" if cost.measured else "assumed, not measured"
        basis = f"{cost.latency * 1e3:,.0f} ms and {cost.rate / 1e6:,.1f} MB/s per connection, {origin}"
        return StageCost(stage, cost.minutes * 60, basis, device)
    if known is not None:
        basis = f"measured here on {known.date}: {known.units:,} in {_time(known.seconds)}"
        return StageCost(stage, known.seconds * amount / known.units, basis, device)
    each = rates.assumed(stage, recipe)
    return StageCost(stage, each * amount, f"assumed, not measured: {amount:,} of {each:g} s", device)


def _exact(recipe: Recipe, sources: Sources, cost: Cost) -> Cost:
    """Return a cost with exact counts and sizes, for which annotations and archive indices are read."""
    with closing(Client(recipe.fetch, progress=True)) as client:
        if any(is_remote(source.places[0]) for source in (sources.annotations, *sources.images)):
            client.announce(
                f"to plan, the annotations of the recipe's gestures and the index of {len(sources.images)} archive(s)"
                " are read and kept in the cache; --offline estimates without them"
            )
        with also(recipe.gesture):
            table = select.make_manifest(sources, recipe, Decisions(), client).table
    splits = table["split"].to_pylist()
    jobs = manifest_jobs(table, recipe.image)
    runs, requests, size = Runs(jobs, recipe.fetch.connections), 0, 0
    while run := runs.take(client.bridge):
        requests += 1
        spans = [archive.span(job.entry) for job in run]
        size += max(end for _, end in spans) - spans[0][0]
    if client.requests:
        cost = replace(cost, latency=client.latency, rate=client.rate, measured=True)
    return replace(
        cost,
        exact=True,
        images={split: splits.count(split) for split in dict.fromkeys(splits)},
        spares=sum(table["spare"].to_pylist()),
        bytes=size,
        requests=requests,
        disk=sum(job.entry.size for job in jobs),
    )


def _time(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count / 1e3:,.0f} kB"
