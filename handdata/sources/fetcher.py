"""Image fetching in threads: neighbouring members in one request, every byte checked.

One thread per connection reads; other threads, one per core, check, decode and store meanwhile, so that no connection
waits for a decoder.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handdata.files import whole_file
from handdata.progress import Bar
from handdata.recipe import ImageOptions
from handdata.rows.shards import image_path
from handdata.sources import archive
from handdata.sources.archive import FOLDER, BadMember, Entry
from handdata.sources.http import Client
from handdata.sources.journal import Journal, Receipt
from handdata.sources.jpeg import Stored, store
from handdata.sources.mirrors import Mirrors
from handdata.vision.pixels import UnreadableImage

_SMALLEST_RUN = 256 << 10  # bytes; below this, a request's latency costs more than another connection would gain
_LARGEST_RUN = 8 << 20  # bytes; a larger request costs more when it is repeated, and gains nothing
_AGAIN = ("wrong-header", "wrong-crc", "wrong-size")  # possibly the server's error: the member is read again
_SAME = 3  # equal wrong answers that prove the member itself wrong; a faulty server may repeat an answer


@dataclass(frozen=True)
class Job:
    """One image to fetch."""

    image_id: str
    gesture: str
    source: str
    entry: Entry
    key: str  # hash of everything that decides the stored bytes


class Runs:
    """Runs of neighbouring members, each for one request. Shared by threads."""

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


@dataclass
class Fetcher:
    """Reads runs in the calling thread; checks and stores their images in the threads of `pool`."""

    build: Path
    image: ImageOptions
    client: Client
    mirrors: dict[str, Mirrors]  # by the manifest's column `source`
    journal: Journal
    pool: ThreadPoolExecutor
    bar: Bar[Any]  # counts bytes

    def __post_init__(self) -> None:
        self._failed, self._lock = 0, threading.Lock()

    def read(self, runs: Runs) -> None:
        """Read all runs, or until the client is stopped. Called by every reading thread."""
        previous: list[Future[None]] = []
        while not self.client.stopped.is_set() and (run := runs.take(self.client.bridge)):
            parts, storing = [run], []
            for jobs in parts:
                mirrors, first = self.mirrors[jobs[0].source], jobs[0].entry
                try:
                    if first.offset == FOLDER:
                        data = memoryview(mirrors.read_file(first.name))
                    else:
                        end = max(archive.span(job.entry)[1] for job in jobs)
                        data = memoryview(mirrors.read(first.offset, end - first.offset))
                except BadMember as error:
                    if len(jobs) > 1:  # its members one by one, so that as few as possible are lost
                        parts += [[job] for job in jobs]
                    else:
                        self._fail(jobs[0], error)
                    continue
                storing += [
                    self.pool.submit(self._check, job, data[job.entry.offset - first.offset :], mirrors) for job in jobs
                ]
            for future in previous:  # so that a connection has at most two runs in memory
                future.result()
            previous = storing
        for future in previous:
            future.result()

    def _check(self, job: Job, data: memoryview, mirrors: Mirrors) -> None:
        """Store the image in a member's bytes; a wrong member is read again, until enough of the answers are equal."""
        folder = job.entry.offset == FOLDER
        start, end = archive.span(job.entry)
        seen: Counter[bytes] = Counter()
        try:
            while True:
                try:
                    packed = data if folder else archive.payload(job.entry, data, mirrors.read)
                    self._store(job, store(archive.unpack(job.entry, packed), self.image))
                    return
                except BadMember as error:
                    digest = hashlib.sha256(data[: end - start]).digest()
                    seen[digest] += 1
                    enough = seen[digest] == _SAME or seen.total() > mirrors.attempts
                    if folder or enough or error.reason not in _AGAIN:
                        raise
                    data = memoryview(mirrors.read(start, end - start, other=True))
        except (BadMember, UnreadableImage) as error:
            self._fail(job, error)

    def _store(self, job: Job, image: Stored) -> None:
        """Write an image, after its receipt."""
        digest = hashlib.sha256(image.data).hexdigest()
        converted = ", ".join(image.converted) or None
        size = (image.orig_width, image.orig_height)
        receipt = Receipt(job.image_id, job.key, digest, len(image.data), *size, converted=converted)
        path = image_path(self.build, job.gesture, job.image_id)
        try:
            with whole_file(path, sync=False) as partial:
                partial.write_bytes(image.data)
                self.journal.add(receipt)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        self.journal.store.put(path)
        self._count(job, failed=0)

    def _fail(self, job: Job, error: BadMember | UnreadableImage) -> None:
        self.journal.add(Receipt(job.image_id, job.key, reason=error.reason, detail=str(error)))
        self._count(job, failed=1)

    def _count(self, job: Job, failed: int) -> None:
        with self._lock:
            self._failed += failed
            self.bar.set_postfix(failed=self._failed, refresh=False)
            self.bar.update(job.entry.compressed_size)
