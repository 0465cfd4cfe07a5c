"""What a build will cost, before anything big is touched: images, bytes, requests, disk, minutes."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from handdata.recipe import Recipe
from handdata.rows.decisions import Decisions
from handdata.sources import archive
from handdata.sources.places import Archive, is_remote, resolve
from handdata.stages.fetch import Runs, manifest_jobs

# What is assumed of a host that was not asked: per connection, measured nowhere.
_LATENCY, _RATE = 0.1, 1e6  # seconds to the first byte, bytes/s


@dataclass(frozen=True)
class Cost:
    """What a build costs. `exact` is False where sizes are only reckoned from sources.toml."""

    name: str
    exact: bool
    images: dict[str, int]  # by split, spares too
    spares: int
    bytes: int  # to read, over the network or from local archives
    requests: int
    disk: int  # bytes, at most
    minutes: float | None  # None: nothing is far away
    latency: float  # seconds to the first byte, and
    rate: float  # bytes/s of one connection: what the minutes were reckoned with
    measured: bool  # latency and rate were observed while reading the index
    licence: str = "HaGRID's own public licence: attribution, share-alike, not a Creative Commons licence"


def plan(recipe: Recipe, offline: bool) -> Cost:
    """Reckon what a build of this recipe costs; reads annotations and archive index unless `offline`.

    Raises `UserError` where a source cannot be read, or with `offline` is unknown.
    """
    if recipe.source.kind == "render":
        return _drawn(recipe)
    return _offline(recipe) if offline else _online(recipe)


def report(cost: Cost, as_json: bool = False) -> str:
    """Return the costs for people, or as one JSON object."""
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
        how = "as observed" if cost.measured else "assumed, not measured"
        lines.append(
            f"time       {cost.minutes:,.1f} minutes ({cost.latency * 1e3:,.0f} ms and {cost.rate / 1e6:,.1f} MB/s"
            f" per connection, {how})"
        )
    return "\n".join([*lines, f"licence    {cost.licence}"])


def _online(recipe: Recipe) -> Cost:
    from handdata.sources.http import Client
    from handdata.stages import select as manifest

    sources = resolve(recipe.source, recipe.select.gestures, Path.cwd())
    _announce(sources.annotations, sources.images)
    client = Client(recipe.fetch)
    try:
        made = manifest.make(sources, recipe.select, recipe.image, Decisions(), client, _say)
    finally:
        client.close()
    for line in made.odd.lines():
        _say(line)
    splits = made.table["split"].to_pylist()
    jobs = manifest_jobs(made.table, recipe.image)
    runs, requests = Runs(jobs, recipe.fetch.connections), 0
    to_read = 0
    while run := runs.take(client.bridge):
        requests += 1
        spans = [archive.span(job.entry) for job in run]
        to_read += max(end for _, end in spans) - spans[0][0]
    far = any(is_remote(source.places[0]) for source in sources.images)
    measured = client.requests > 0
    latency, rate = client.speed() if measured else (_LATENCY, _RATE)
    return Cost(
        name=recipe.name,
        exact=True,
        images={split: splits.count(split) for split in dict.fromkeys(splits)},
        spares=sum(made.table["spare"].to_pylist()),
        bytes=to_read,
        requests=requests,
        disk=sum(job.entry.size for job in jobs),
        minutes=_minutes(requests, to_read, latency, rate, recipe.fetch.connections) if far else None,
        latency=latency,
        rate=rate,
        measured=measured,
    )


def _offline(recipe: Recipe) -> Cost:
    sources = resolve(recipe.source, recipe.select.gestures, Path.cwd())
    images, spares = _asked(recipe)
    total = sum(images.values())
    to_read = total * sources.images[0].image_bytes
    far = any(is_remote(source.places[0]) for source in sources.images)
    return Cost(
        name=recipe.name,
        exact=False,
        images=images,
        spares=spares,
        bytes=to_read,
        requests=total,
        disk=to_read,
        minutes=_minutes(total, to_read, _LATENCY, _RATE, recipe.fetch.connections) if far else None,
        latency=_LATENCY,
        rate=_RATE,
        measured=False,
    )


def _drawn(recipe: Recipe) -> Cost:
    images, spares = _asked(recipe)
    return Cost(recipe.name, False, images, spares, 0, 0, sum(images.values()) * 30_000, None, 0, 0, False, "none")


def _asked(recipe: Recipe) -> tuple[dict[str, int], int]:
    from handdata.rows.selection import with_spares

    select = recipe.select
    counts = {"train": select.train, "validation": select.validation, "test": select.test}
    gestures = len(select.gestures)
    images = {split: gestures * with_spares(count, select.spare) for split, count in counts.items()}
    return images, sum(images.values()) - gestures * sum(counts.values())


def _announce(annotations: Archive, images: tuple[Archive, ...]) -> None:
    """Say what must be read to make the plan, before it is read."""
    far = [source for source in (annotations, *images) if is_remote(source.places[0])]
    if far:
        _say(
            f"to plan, the annotations of the recipe's gestures and the index of {len(images)} archive(s) are read"
            " and kept in the cache; --offline reckons without them"
        )


def _minutes(requests: int, size: int, latency: float, rate: float, connections: int) -> float:
    return (requests * latency + size / rate) / connections / 60


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count / 1e3:,.0f} kB"


def _say(line: str) -> None:
    print(line, file=sys.stderr)
