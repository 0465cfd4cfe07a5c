"""A real HTTP server on 127.0.0.1 that serves files in parts, slow and faulty on request: for tests and trials by hand.

    python -m tests.range_server FOLDER --port 8000 --latency 0.05 --faults 0.2

Every answer waits `latency` seconds; a share of them (`faults`) goes wrong in one of the ways of `FAULTS`, chosen by a
seeded generator. `log` holds all requests and how they were answered.
"""

import argparse
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

FAULTS = ("429", "503", "500", "stall", "short", "wrong", "page", "drop", "shifted")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Answered:
    """One request: the requested bytes [start, end), or (0, -1) for the whole file."""

    path: str
    start: int
    end: int
    status: int
    fault: str | None
    headers: dict[str, str]


@dataclass
class RangeServer:
    """A server for the files of a folder. Fields may be changed while it runs."""

    folder: Path
    latency: float = 0.0  # seconds before every answer
    faults: float = 0.0  # share of answers that go wrong
    kinds: tuple[str, ...] = FAULTS
    ranges: bool = True  # False: ignores Range and answers 200
    stall: float = 3.0  # seconds that a stalled answer stays silent
    retry_after: str | None = None  # header of 429 and 503
    version: str = "1"  # part of the ETag
    weak: bool = False  # ETags are weak
    redirects: dict[str, str] = field(default_factory=dict)  # path: where a 302 leads
    seed: int = 0
    log: list[Answered] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.first_bad = 0  # the first so many answers go wrong, whatever the share

    def start(self, port: int = 0) -> None:
        """Listen on a free port, or the one given."""
        self._server = _Server(("127.0.0.1", port), partial(_Handler, self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}/{path}"

    def parts_of(self, path: str) -> list[tuple[int, int]]:
        """Return the parts of a file that were answered well."""
        return [(r.start, r.end) for r in self.log if r.path == path and r.status == 206 and not r.fault]

    def next_fault(self) -> str | None:
        with self._lock:
            if self.first_bad > 0:
                self.first_bad -= 1
                return self._random.choice(self.kinds)
            return self._random.choice(self.kinds) if self._random.random() < self.faults else None


@contextmanager
def serve(folder: Path, **options: object) -> Iterator[RangeServer]:
    """Run a server for the time of a `with` block."""
    server = RangeServer(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def __init__(self, server: RangeServer, *arguments: object) -> None:
        self.options = server
        super().__init__(*arguments)

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        options, name = self.options, unquote(urlsplit(self.path).path).lstrip("/")
        time.sleep(options.latency)
        if name in options.redirects:
            self._note(name, 0, -1, 302, None)
            self._head(302, 0, {"Location": options.redirects[name]})
            return
        path = (options.folder / name).resolve()
        if not path.is_relative_to(options.folder.resolve()) or not path.is_file():
            self._note(name, 0, -1, 404, None)
            self._page(404)
            return
        length = path.stat().st_size
        etag = ("W/" if options.weak else "") + f'"{options.version}-{length}"'
        start, end = self._range(length, etag)
        if start >= length > 0:
            self._note(name, start, end, 416, None)
            self._head(416, 0, {"Content-Range": f"bytes */{length}"})
            return
        whole = end < 0
        fault = options.next_fault()
        self._note(name, start, end, 200 if whole or fault == "page" else 206, fault)
        if fault and self._wrong(fault, path, length, etag, start, length if whole else end):
            return
        headers = {"ETag": etag, "Content-Type": "application/zip"}
        if whole:
            self._head(200, length, headers)
            self._send(path, 0, length)
        else:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{length}"
            self._head(206, end - start, headers)
            self._send(path, start, end)

    def _range(self, length: int, etag: str) -> tuple[int, int]:
        """Return the part [start, end) to send, (0, -1) for the whole file."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not self.options.ranges or not match or (condition is not None and condition != etag):
            return 0, -1
        first, last = match.groups()
        if not first:
            return max(0, length - int(last)), length
        return int(first), min(length, int(last) + 1) if last else length

    def _wrong(self, fault: str, path: Path, length: int, etag: str, start: int, end: int) -> bool:
        """Answer in one of the ways of FAULTS; return False if the fault is only a delay."""
        part = {"ETag": etag, "Content-Type": "application/zip", "Content-Range": f"bytes {start}-{end - 1}/{length}"}
        if fault in ("429", "503", "500"):
            self._page(int(fault), {"Retry-After": self.options.retry_after} if self.options.retry_after else {})
        elif fault == "stall":
            time.sleep(self.options.stall)
            self.close_connection = True
        elif fault == "short":  # promises all, sends half
            self._head(206, end - start, part)
            self._send(path, start, start + (end - start) // 2)
            self.close_connection = True
        elif fault == "wrong":  # the right length, other bytes
            self._head(206, end - start, part)
            self.wfile.write(random.Random(start).randbytes(end - start))
        elif fault == "page":
            self._page(200)
        elif fault == "drop":
            self.close_connection = True
        elif fault == "shifted":  # another part than the requested one
            shifted = f"bytes {start + 1}-{end}/{length}"
            self._head(206, end - start, {**part, "Content-Range": shifted})
            self._send(path, start, end)
        else:
            raise AssertionError(fault)
        return True

    def _note(self, name: str, start: int, end: int, status: int, fault: str | None) -> None:
        self.options.log.append(Answered(name, start, end, status, fault, dict(self.headers.items())))

    def _page(self, status: int, headers: dict[str, str] | None = None) -> None:
        text = b"<html><body>Service temporarily unavailable</body></html>"
        self._head(status, len(text), {"Content-Type": "text/html", **(headers or {})})
        self.wfile.write(text)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, path: Path, start: int, end: int) -> None:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while start < end and (chunk := file.read(min(_CHUNK, end - start))):
                self.wfile.write(chunk)
                start += len(chunk)


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of answers that go wrong")
    parser.add_argument("--no-ranges", action="store_true", help="serve whole files only")
    flags = parser.parse_args()
    server = RangeServer(flags.folder, flags.latency, flags.faults, ranges=not flags.no_ranges)
    server.start(flags.port)
    print(server.url(""), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
