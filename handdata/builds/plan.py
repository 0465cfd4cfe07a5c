"""The cost of a build, known before it starts: images, bytes, requests, disk and minutes."""

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
from handdata.stages import select
from handdata.stages.fetch import manifest_jobs
from handdata.web.urls import is_remote

# Assumptions for a host that was not measured, per connection: seconds to the first byte, bytes/s.
_LATENCY, _RATE = 0.1, 1e6


@dataclass(frozen=True)
class Cost:
    """The cost of a build. `exact` is False for an estimate from the sizes in sources.toml."""

    name: str
    exact: bool
    images: dict[str, int]  # by split, spares included
    spares: int
    bytes: int  # to read, over the network or from local archives
    requests: int
    disk: int  # upper limit, in bytes
    minutes: float | None  # None if all sources are local
    latency: float  # seconds to the first byte, for the minutes
    rate: float  # bytes/s of one connection, for the minutes
    measured: bool  # latency and rate were measured while the index was read
    licence: str = "HaGRID's own public licence: attribution, share-alike, not a Creative Commons licence"


def plan(recipe: Recipe, offline: bool) -> Cost:
    """Return the cost of a build of this recipe; unless `offline`, its annotations and archive indices are read.

    Raises `UserError` if a source cannot be read, or is unknown to an offline plan.
    """
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
        return json.dumps(asdict(cost))
    about = "" if cost.exact else "about "
    images = ", ".join(f"{count:,} {split}" for split, count in cost.images.items())
    lines = [
        f"{cost.name}",
        f"images     {sum(cost.images.values()):,} ({images}; {cost.spares:,} of them spare)",
        f"to read    {about}{_bytes(cost.bytes)} in {about}{cost.requests:,} requests",
        f"disk       at most {about}{_bytes(cost.disk)}",
    ]
    if cost.minutes is not None:
        origin = "as observed" if cost.measured else "assumed, not measured"
        lines.append(
            f"time       {cost.minutes:,.1f} minutes ({cost.latency * 1e3:,.0f} ms and {cost.rate / 1e6:,.1f} MB/s"
            f" per connection, {origin})"
        )
    return "\n".join([*lines, f"licence    {cost.licence}"])


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


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count / 1e3:,.0f} kB"
