"""Fetch the manifest's images out of their archives, and nothing else: neighbours in one request, every byte checked.

One thread a connection reads; others, one a core, check, decode and store meanwhile, so that no connection waits for a
decoder. Each image appears by rename, after its receipt. What fails has a reason; what cannot go on (a replaced
archive, a full disk) ends the run with a sentence, and the same command continues.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from handdata.errors import Unfinished, UserError
from handdata.machine import cores
from handdata.recipe import FetchOptions, ImageOptions, Recipe
from handdata.rows.decisions import replay
from handdata.rows.manifest import SourceFacts, read_manifest, source_facts
from handdata.rows.shards import image_path
from handdata.sources import archive
from handdata.sources.archive import FOLDER, BadMember, Entry
from handdata.sources.http import Client
from handdata.sources.journal import Journal, Receipt, finished, remove_images, write_shards
from handdata.sources.jpeg import BadImage, store
from handdata.sources.mirrors import Mirrors
from handdata.sources.places import safe_member
from handdata.stages import Execution, StageReport
from handdata.stages.select import ENCRYPTED

VERSION = 1  # raised when a change of the code changes the stored bytes
FINAL_REASONS = frozenset({"dropped", "image-corrupt", "image-truncated", "too-many-pixels"})  # the CRC was right

_SMALLEST_RUN = 256 << 10  # bytes; below this, a request's latency outweighs what another connection would gain
_LARGEST_RUN = 8 << 20  # bytes; a larger request costs more when it has to be repeated, and gains nothing
_AGAIN = ("wrong-header", "wrong-crc", "wrong-size")  # may be the server's fault: read once more
_SAME = 3  # equal wrong answers that are the member's own; a faulty server repeats itself now and then
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Job:
    """One image to fetch."""

    image_id: str
    gesture: str
    source: str
    entry: Entry
    key: str


def run(build: Path, recipe: Recipe, execution: Execution) -> StageReport:
    """Bring the stage `fetch` of a build up to date: every image of its manifest is stored or has a reason.

    Raises `Unfinished` where it cannot go on, `UserError` for a manifest that is none.
    """
    from tqdm import tqdm

    options, image = recipe.fetch, recipe.image
    table = read_manifest(build)
    jobs = manifest_jobs(table, image)
    journal = Journal(build)
    try:
        _remove_partial_images(build)
        _settle_dropped(build, table, jobs, journal)
        refused = _refuse(jobs, options, journal)
        todo = [job for job in jobs if job.image_id not in refused and not _finished(build, job, journal)]
        for gesture in {job.gesture for job in todo}:
            (build / "images" / gesture).mkdir(parents=True, exist_ok=True)
        _require_space(build, todo)
        size = sum(job.entry.compressed_size for job in todo)
        fetcher = _Fetcher(build, source_facts(table.schema), options, image, journal)
        with tqdm(
            total=size, desc="fetch", unit="B", unit_scale=True, disable=None if execution.progress else True
        ) as bar:
            fetcher.run(todo, bar)
        journal.sync()
        failed = write_shards(build, [job.image_id for job in jobs], journal.receipts)
    finally:
        journal.close()
    return StageReport(rows=len(jobs), made_shards=0, kept_shards=0, failed=failed)


def manifest_jobs(table: pa.Table, image: ImageOptions) -> list[Job]:
    """Return a manifest's images. Raises `UserError` for names that could lead out of the build folder."""
    options = dataclasses.asdict(image)
    jobs = []
    for row in table.drop_columns(["bboxes", "labels"]).to_pylist():
        if not _NAME.fullmatch(row["image_id"]) or not _NAME.fullmatch(row["gesture"]):
            raise UserError(f"the manifest names an image {row['gesture']}/{row['image_id']}: that is no HaGRID image")
        sizes = {name: row[name] for name in ("method", "crc32", "compressed_size", "size", "offset")}
        entry = Entry(name=row["member"], encrypted=row["method"] == ENCRYPTED, **sizes)
        parts = [VERSION, row["image_id"], entry.name, entry.crc32, entry.size, options]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        jobs.append(Job(row["image_id"], row["gesture"], row["source"], entry, key))
    return jobs


class Runs:
    """Hand out runs of members that lie side by side, each for one request. Shared by the threads."""

    def __init__(self, jobs: list[Job], connections: int) -> None:
        self._jobs = sorted(jobs, key=lambda job: (job.source, job.entry.offset))
        self._connections = connections
        self._next = 0
        self._left = sum(job.entry.compressed_size for job in jobs)
        self._lock = threading.Lock()

    def take(self, bridge: Callable[[], int]) -> list[Job]:
        """Return the next run, empty at the end. Its size leaves enough for all connections."""
        with self._lock:
            if self._next == len(self._jobs):
                return []
            largest = min(_LARGEST_RUN, max(_SMALLEST_RUN, self._left // (2 * self._connections)))
            gap = bridge()
            first = last = self._next
            start, end = archive.span(self._jobs[first].entry)
            while last + 1 < len(self._jobs) and self._jobs[first].entry.offset != FOLDER:
                begin, stop = archive.span(self._jobs[last + 1].entry)
                same = self._jobs[last + 1].source == self._jobs[first].source
                if not same or begin - end > gap or stop - start > largest:
                    break
                last, end = last + 1, max(end, stop)
            self._next = last + 1
            run = self._jobs[first : last + 1]
            self._left -= sum(job.entry.compressed_size for job in run)
            return run


class _Fetcher:
    """Fetch jobs in threads."""

    def __init__(
        self, build: Path, sources: dict[str, SourceFacts], options: FetchOptions, image: ImageOptions, journal: Journal
    ) -> None:
        self.build, self.options, self.image, self.journal = build, options, image, journal
        self.client = Client(options)
        self.mirrors = {name: Mirrors(facts, self.client) for name, facts in sources.items()}

    def run(self, jobs: list[Job], bar: Any) -> None:
        """Fetch all jobs; what a thread raises ends the run here."""
        runs, lock, failed = Runs(jobs, self.options.connections), threading.Lock(), 0

        def await_settled(settling: list[tuple[Job, Future[Receipt]]]) -> None:
            nonlocal failed
            for job, receipt in settling:
                reason = receipt.result().reason
                with lock:
                    failed += reason is not None
                    bar.set_postfix(failed=failed, refresh=False)
                    bar.update(job.entry.compressed_size)

        def work() -> None:
            before: list[tuple[Job, Future[Receipt]]] = []
            while not self.client.stopped.is_set() and (run := runs.take(self.client.bridge)):
                settling = list(self._fetch_run(run, settlers))
                await_settled(before)  # so that a connection has two runs in memory at the most
                before = settling
            await_settled(before)

        with ThreadPoolExecutor(cores()) as settlers, ThreadPoolExecutor(self.options.connections) as pool:
            try:
                for future in as_completed([pool.submit(work) for _ in range(self.options.connections)]):
                    future.result()
            finally:
                self.client.close()

    def _fetch_run(self, jobs: list[Job], settlers: ThreadPoolExecutor) -> Iterator[tuple[Job, Future[Receipt]]]:
        """Read members that lie side by side in one request and have each of them settled."""
        mirrors = self.mirrors[jobs[0].source]
        try:
            data = memoryview(_read(mirrors, jobs))
        except BadMember as error:
            if len(jobs) > 1:  # one by one, so that as few as possible are lost
                for job in jobs:
                    yield from self._fetch_run([job], settlers)
            else:
                yield jobs[0], settlers.submit(self._failed, jobs[0], error)
            return
        for job in jobs:
            begin = 0 if job.entry.offset == FOLDER else job.entry.offset - jobs[0].entry.offset
            yield job, settlers.submit(self._settle, job, data[begin:], mirrors)

    def _settle(self, job: Job, data: memoryview, mirrors: Mirrors) -> Receipt:
        """Turn a member's bytes into a stored image and its receipt."""
        try:
            stored = store(_content(job.entry, data, mirrors), self.image)
        except (BadMember, BadImage) as error:
            return self._failed(job, error)
        digest = hashlib.sha256(stored.data).hexdigest()
        receipt = Receipt(job.image_id, job.key, digest, len(stored.data), stored.orig_width, stored.orig_height)
        path = image_path(self.build, job.gesture, job.image_id)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(stored.data)
            self.journal.add(receipt)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from None
        return receipt

    def _failed(self, job: Job, error: BadMember | BadImage) -> Receipt:
        receipt = Receipt(job.image_id, job.key, reason=error.reason, detail=str(error))
        self.journal.add(receipt)
        return receipt


def _read(mirrors: Mirrors, jobs: list[Job]) -> bytes:
    if jobs[0].entry.offset == FOLDER:
        return mirrors.read_file(jobs[0].entry.name)
    start = jobs[0].entry.offset
    return mirrors.read(start, max(archive.span(job.entry)[1] for job in jobs) - start)


def _content(entry: Entry, data: memoryview, mirrors: Mirrors) -> bytes:
    """Return a member's checked content. One that is wrong is read again, until enough answers are the same."""
    if entry.offset == FOLDER:
        return archive.unpack(entry, data)
    start, end = archive.span(entry)
    seen: Counter[bytes] = Counter()
    while True:
        try:
            begin = archive.data_start(entry, data)
            if len(data) < begin + entry.compressed_size:  # an extra field longer than was read for it
                data = memoryview(mirrors.read(start, begin + entry.compressed_size))
            return archive.unpack(entry, data[begin : begin + entry.compressed_size])
        except BadMember as error:
            digest = hashlib.sha256(data[: end - start]).digest()
            seen[digest] += 1
            if error.reason not in _AGAIN or seen[digest] == _SAME or seen.total() > mirrors.attempts:
                raise
            data = memoryview(mirrors.read(start, end - start, other=True))


def _refuse(jobs: list[Job], options: FetchOptions, journal: Journal) -> set[str]:
    """Give a reason to members that must not be read at all; return their images' ids."""
    refused = set()
    for job in jobs:
        try:
            if not safe_member(job.entry.name):
                raise BadMember("unsafe-name", f"the member is called {job.entry.name!r}")
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
    """Give dropped rows their reason and remove their images; a decision taken back makes them rows to fetch."""
    decisions = replay(build)
    subjects = table["subject"].to_pylist()
    dropped = []
    for job, subject in zip(jobs, subjects, strict=True):
        receipt = journal.receipts.get(job.image_id)
        if decisions.about(job.image_id, subject) == "dropped":
            dropped.append(job)
            if receipt is None or receipt.reason != "dropped" or receipt.key != job.key:
                journal.add(Receipt(job.image_id, job.key, reason="dropped"))
        elif receipt is not None and receipt.reason == "dropped":
            journal.add(Receipt(job.image_id, job.key, reason="not-fetched"))
    remove_images(build, {job.image_id: job.gesture for job in dropped}, [job.image_id for job in dropped])


def _remove_partial_images(build: Path) -> None:
    for path in (build / "images").glob("*/.*.partial"):
        path.unlink(missing_ok=True)


def _require_space(build: Path, todo: list[Job]) -> None:
    """Raise `Unfinished` where the images cannot fit, before the first is fetched."""
    needed = sum(job.entry.size for job in todo)
    free = shutil.disk_usage(build).free
    if needed > free:
        raise Unfinished(
            f"{build} has {free / 1e9:,.2f} GB free, the images may need {needed / 1e9:,.2f} GB: free some space first"
        )
