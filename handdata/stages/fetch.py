"""The stage `fetch`: read the manifest's images from their archives; each is stored or gets a reason.

Each image appears by rename, after its receipt. A stage that cannot continue (a replaced archive, a full disk) ends
with one sentence, and the same command resumes.
"""

import dataclasses
import hashlib
import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from handdata.errors import Unfinished, UserError
from handdata.files import remove_partial, require_room
from handdata.machine import cores
from handdata.progress import bar
from handdata.recipe import FetchOptions, ImageOptions, Recipe
from handdata.rows.decisions import replay
from handdata.rows.manifest import SourceFacts, read_manifest, source_facts
from handdata.rows.shards import SHARD_ROWS, image_path
from handdata.sources import archive
from handdata.sources.archive import ENCRYPTED, BadMember, Entry
from handdata.sources.fetcher import Fetcher, Job, Runs
from handdata.sources.http import Client
from handdata.sources.journal import Journal, Receipt, dropped, finished, write_shards
from handdata.sources.mirrors import ArchiveReplaced, Mirrors
from handdata.sources.places import addresses, safe_member
from handdata.stages import Execution, StageReport, select
from handdata.store.folder import Folder
from handdata.web.urls import public_url

VERSION = 2  # increased when a change of the code changes the stored bytes
FINAL_REASONS = frozenset(  # the CRC was right
    {"image-corrupt", "image-truncated", "too-many-pixels", "odd-shape"}
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def run(build: Path, recipe: Recipe, execution: Execution) -> StageReport:
    """Fetch the images of a build's manifest that are not finished.

    Where an archive was replaced by another one, the images are selected again, once; finished ones whose members are
    unchanged are kept. Raises `Unfinished` if it cannot continue, `UserError` for a manifest with unsafe names or
    without sources.
    """
    try:
        return _fetch(build, recipe, execution)
    except ArchiveReplaced as replaced:
        if execution.part:
            raise Unfinished(
                f"{replaced}: when no part is running, run `handdata fetch {build}`, which selects the images again,"
                " then all parts"
            ) from None
        if not recipe.source.images or select.began_with_manifest(build, recipe):
            raise Unfinished(
                f"{replaced}: this build was started from a manifest, so it needs the manifest of the new archive"
            ) from None
        if execution.progress:
            print(f"{replaced}: the images are selected again from the new archive", file=sys.stderr)
    selected = select.run(build, recipe, execution, again=True)
    report = _fetch(build, recipe, execution)
    report.notes |= selected.notes
    return report


def _fetch(build: Path, recipe: Recipe, execution: Execution) -> StageReport:
    table, part = read_manifest(build), execution.part
    ids = table["image_id"].to_pylist()
    if part is not None:
        rows = [row for row in range(len(ids)) if part.holds(row // SHARD_ROWS)]
        table = table.take(pa.array(rows, pa.int64()))
    jobs = manifest_jobs(table, recipe.image)
    facts = source_facts(table.schema)
    store = execution.store or Folder(build)
    with closing(Journal(build, part, store)) as journal:
        for folder in (build / "images").glob("*") if part is None else ():  # other parts may be writing
            remove_partial(folder)
        removed = _settle_dropped(build, table, jobs, journal)
        wanted = [job for job in jobs if job.image_id not in removed]
        refused = _refuse(wanted, recipe.fetch, journal)
        wanted = [job for job in wanted if job.image_id not in refused]
        with ThreadPoolExecutor(cores()) as reading:  # every stored image is read again, and compared with its hash
            done = list(reading.map(lambda job: _finished(build, job, journal), wanted))
        todo = [job for job, finished in zip(wanted, done, strict=True) if not finished]
        _require_sources(todo, facts)
        require_room(build, sum(job.entry.size for job in todo), "fetching the images")
        size = sum(job.entry.compressed_size for job in todo)
        connections = recipe.fetch.connections
        runs = Runs(todo, connections)
        with (
            bar(total=size, desc="fetch", unit="B", unit_scale=True, show=execution.progress) as shown,
            ThreadPoolExecutor(cores()) as storing,
            ThreadPoolExecutor(connections) as reading,
            closing(Client(recipe.fetch)) as client,
        ):
            mirrors = _mirrors(build, recipe, facts, client) if todo else {}
            fetcher = Fetcher(build, recipe.image, client, mirrors, journal, storing, shown)
            for future in as_completed([reading.submit(fetcher.read, runs) for _ in range(connections)]):
                future.result()
        journal.sync()
        store.put_missing([image_path(build, job.gesture, job.image_id) for job in wanted])
        failed = write_shards(build, ids, journal.receipts, part, store)
        notes = {"converted": converted(journal.receipts, [job.image_id for job in jobs])}
        return StageReport(len(jobs), failed=failed, notes=notes, made_rows=len(todo))


def converted(receipts: dict[str, Receipt], image_ids: list[str]) -> dict[str, int]:
    """Return how many images' colours were converted, by the words of `pixels.to_rgb`."""
    present = (receipts.get(image_id) for image_id in image_ids)
    words = (receipt.converted for receipt in present if receipt and receipt.converted)
    return dict(sorted(Counter(word for text in words for word in text.split(", ")).items()))


def _mirrors(build: Path, recipe: Recipe, facts: dict[str, SourceFacts], client: Client) -> dict[str, Mirrors]:
    """Return the places of each source, requested at the recipe's addresses: the manifest holds their public form."""
    known = addresses(recipe.source, recipe.select.gestures, build)
    anywhere = {public: place for named in known.values() for public, place in named.items()}
    return {name: Mirrors(source, client, {**anywhere, **known.get(name, {})}) for name, source in facts.items()}


def _require_sources(jobs: list[Job], facts: dict[str, SourceFacts]) -> None:
    for job in jobs:
        if job.source not in facts:
            raise UserError(f"the manifest names no place for the source '{job.source}': select again, or replace it")


def manifest_jobs(table: pa.Table, image: ImageOptions) -> list[Job]:
    """Return a manifest's images as jobs. Raises `UserError` for names that could lead out of the build folder."""
    options = dataclasses.asdict(image)
    jobs = []
    for row in table.drop_columns(["bboxes", "labels"]).to_pylist():
        if not _NAME.fullmatch(row["image_id"]) or not _NAME.fullmatch(row["gesture"]):
            raise UserError(f"the manifest names an image {row['gesture']}/{row['image_id']}: HaGRID has no such names")
        sizes = {name: row[name] for name in ("method", "crc32", "compressed_size", "size", "offset")}
        entry = Entry(name=row["member"], encrypted=row["method"] == ENCRYPTED, **sizes)
        parts = [VERSION, row["image_id"], entry.name, entry.crc32, entry.size, options]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        jobs.append(Job(row["image_id"], row["gesture"], public_url(row["source"]), entry, key))
    return jobs


def _refuse(jobs: list[Job], options: FetchOptions, journal: Journal) -> set[str]:
    """Give a reason to members that must not be read; return the ids of their images."""
    refused = set()
    for job in jobs:
        try:
            if not safe_member(job.entry.name):
                raise BadMember("unsafe-name", f"the member's name is {job.entry.name!r}")
            archive.check_limits(job.entry, options.largest)
        except BadMember as error:
            receipt = Receipt(job.image_id, job.key, reason=error.reason, detail=str(error))
            refused.add(job.image_id)
            if journal.receipts.get(job.image_id) != receipt:
                journal.add(receipt)
    return refused


def _finished(build: Path, job: Job, journal: Journal) -> bool:
    path = image_path(build, job.gesture, job.image_id)
    receipt = journal.receipts.get(job.image_id)
    if finished(receipt, job.key, path, FINAL_REASONS):
        return True
    if receipt is None or receipt.key != job.key or receipt.sha256 is None:
        return False
    journal.store.bring(path)  # fetched on another machine
    return finished(receipt, job.key, path, FINAL_REASONS)


def _settle_dropped(build: Path, table: pa.Table, jobs: list[Job], journal: Journal) -> set[str]:
    """Give dropped rows their reason and remove their images; return their ids.

    Rows whose decision was removed are fetched again, unless `drop` has emptied them.
    """
    decisions, removed = replay(build), set()
    for job, subject in zip(jobs, table["subject"].to_pylist(), strict=True):
        receipt = journal.receipts.get(job.image_id)
        if decisions.about(job.image_id, subject) == "dropped" or not job.entry.name:
            removed.add(job.image_id)
            journal.store.remove(image_path(build, job.gesture, job.image_id))
            if receipt != dropped(job.image_id):
                journal.add(dropped(job.image_id))
        elif receipt is not None and receipt.reason == "dropped":
            journal.add(Receipt(job.image_id, job.key, reason="not-fetched"))
    return removed
