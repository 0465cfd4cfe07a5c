"""The stage `fetch`: read the manifest's images from their archives; each is stored or gets a reason.

Each image appears by rename, after its receipt. A stage that cannot continue (a replaced archive, a full disk) ends
with one sentence, and the same command resumes.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from handdata.errors import UserError
from handdata.files import remove_partial, require_room
from handdata.machine import cores
from handdata.progress import bar
from handdata.recipe import FetchOptions, ImageOptions, Recipe
from handdata.rows.decisions import replay
from handdata.rows.manifest import read_manifest, source_facts
from handdata.rows.shards import image_path
from handdata.sources import archive
from handdata.sources.archive import ENCRYPTED, BadMember, Entry
from handdata.sources.fetcher import Fetcher, Job, Runs
from handdata.sources.http import Client
from handdata.sources.journal import Journal, Receipt, finished, write_shards
from handdata.sources.mirrors import Mirrors
from handdata.sources.places import safe_member
from handdata.stages import Execution, StageReport

VERSION = 2  # increased when a change of the code changes the stored bytes
FINAL_REASONS = frozenset(  # the CRC was right
    {"dropped", "image-corrupt", "image-truncated", "too-many-pixels", "odd-shape"}
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def run(build: Path, recipe: Recipe, execution: Execution) -> StageReport:
    """Fetch the images of a build's manifest that are not finished.

    Raises `Unfinished` if it cannot continue, `UserError` for a manifest with unsafe names or without sources.
    """
    table = read_manifest(build)
    jobs = manifest_jobs(table, recipe.image)
    with closing(Journal(build)) as journal:
        for folder in (build / "images").glob("*"):
            remove_partial(folder)
        _settle_dropped(build, table, jobs, journal)
        refused = _refuse(jobs, recipe.fetch, journal)
        todo = [job for job in jobs if job.image_id not in refused and not _finished(build, job, journal)]
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
            mirrors = {name: Mirrors(facts, client) for name, facts in source_facts(table.schema).items()}
            fetcher = Fetcher(build, recipe.image, client, mirrors, journal, storing, shown)
            for future in as_completed([reading.submit(fetcher.read, runs) for _ in range(connections)]):
                future.result()
        journal.sync()
        failed = write_shards(build, [job.image_id for job in jobs], journal.receipts)
        return StageReport(len(jobs), failed=failed, notes={"converted": converted(journal, jobs)})


def converted(journal: Journal, jobs: list[Job]) -> dict[str, int]:
    """Return how many images' colours were converted, by the words of `pixels.to_rgb`."""
    words = (journal.receipts[job.image_id].converted for job in jobs)
    return dict(sorted(Counter(word for text in words if text for word in text.split(", ")).items()))


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
        jobs.append(Job(row["image_id"], row["gesture"], row["source"], entry, key))
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
    return finished(receipt, job.key, path, FINAL_REASONS)


def _settle_dropped(build: Path, table: pa.Table, jobs: list[Job], journal: Journal) -> None:
    """Give dropped rows their reason and remove their images; fetch rows again whose decision was removed."""
    decisions = replay(build)
    for job, subject in zip(jobs, table["subject"].to_pylist(), strict=True):
        receipt = journal.receipts.get(job.image_id)
        if decisions.about(job.image_id, subject) == "dropped":
            image_path(build, job.gesture, job.image_id).unlink(missing_ok=True)
            if receipt is None or receipt.reason != "dropped" or receipt.key != job.key:
                journal.add(Receipt(job.image_id, job.key, reason="dropped"))
        elif receipt is not None and receipt.reason == "dropped":
            journal.add(Receipt(job.image_id, job.key, reason="not-fetched"))
