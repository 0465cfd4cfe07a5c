"""Family of HTTP answers: a server of archives that answers wrongly, always or sometimes, and is repaired afterwards.

A case is `ANSWER WHEN`. If the build fails, the same command has to succeed as soon as the server answers well.
"""

import gzip
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.damage.trial import Trial

CONTENT_RANGES = [
    "bytes 0-1/\u00b2", "bytes */0", "bytes 5-1/10", f"bytes 0-{9 * 10**30}/{10**31}", "bytes 0-1/*", "items 0-1/5", "",
    "bytes 0-1", "bytes -1-2/3", "bytes 0-0/0", "bytes 1e3-2e3/5e3", "bytes  0 - 1 / 2", "\u0661-\u0662/\u0663",
]  # fmt: skip
LENGTHS = ["-1", "\u00b2", "1" + "0" * 30, "0", "abc", "", "1.5", "0x10"]
TAGS = ['"\u00ff\u00fe"', '"' + "x" * 5000 + '"', "", "W/", '"a" "b"', "*", '"\u2028"']
PLACES = [
    "http://[::1", "file:///etc/passwd", "", f"http://{'a' * 300}.example/x", "http://127.0.0.1:1/x", "//", "http://",
    "http://127.0.0.1:99999/x", "ftp://127.0.0.1/x", "\x01", "http://\u00fc.invalid:\u00b2/", "http:///x", "?", "/loop",
]  # fmt: skip
STATUSES = [0, 100, 101, 199, 201, 204, 205, 226, 300, 304, 305, 400, 401, 403, 404, 405, 408, 410, 412, 416, 418, 421]
STATUSES += [425, 429, 451, 500, 501, 502, 503, 504, 511, 599, 600, 999]
WHEN = {"always": 1.0, "half": 0.5, "once": 0.0}
FETCH = "--fetch.timeout 1 --fetch.attempts 2 --fetch.backoff 0.01 --fetch.connections 2 --until facts".split()

Answer = Callable[[bytes, int, int], bytes]  # the file, start and end of the requested part -> the raw answer


def _head(status: object, body: bytes, **headers: str) -> bytes:
    lines = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    text = f"HTTP/1.1 {status} Odd\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in lines.items() if value != "-"
    )
    return text.encode("utf-8", "replace") + b"\r\n" + body


def _part(data: bytes, start: int, end: int, **headers: str) -> bytes:
    given = {"Content_Range": f"bytes {start}-{end - 1}/{len(data)}", "ETag": '"1"', **headers}
    return _head(206, data[start:end], **given)


def _bomb(data: bytes, start: int, end: int) -> bytes:
    return _head(
        206, gzip.compress(bytes(200_000_000), 9)[: 1 << 20], Content_Encoding="gzip", Content_Range="bytes 0-9/10"
    )


def _answers() -> dict[str, Answer]:
    made: dict[str, Answer] = {}
    for number, value in enumerate(CONTENT_RANGES):
        made[f"content-range-{number}"] = partial(_part, Content_Range=value)
    for number, value in enumerate(LENGTHS):
        made[f"content-length-{number}"] = partial(_part, Content_Length=value)
    for number, value in enumerate(TAGS):
        made[f"etag-{number}"] = partial(_part, ETag=value)
    for number, value in enumerate(PLACES):
        made[f"location-{number}"] = lambda data, start, end, value=value: _head(302, b"", Location=value)
    for status in STATUSES:
        made[f"status-{status}"] = lambda data, start, end, status=status: _head(status, b"<html>odd</html>")
    for label in ("gzip", "deflate", "br", "zstd", "identity", "nonsense"):
        made[f"encoding-{label}"] = partial(_part, Content_Encoding=label)
    for number, chunk in enumerate([b"zz\r\n", b"ffffffffffffffff\r\nx", b"-1\r\n\r\n", b"5\r\nab", b"0\r\n\r\n"]):
        made[f"chunked-{number}"] = lambda data, start, end, chunk=chunk: (
            _head(206, b"", Content_Length="-", Transfer_Encoding="chunked", Content_Range="bytes 0-1/2") + chunk
        )
    bodies = {"short": lambda part: part[: len(part) // 2], "long": lambda part: part + b"x" * 1000,
              "other": lambda part: bytes(len(part)), "empty": lambda part: b""}  # fmt: skip
    for name, change in bodies.items():
        made[f"body-{name}"] = lambda data, start, end, change=change: (
            _part(data, start, end, Content_Length=str(end - start)).partition(b"\r\n\r\n")[0]
            + b"\r\n\r\n" + change(data[start:end])
        )  # fmt: skip
    made |= {
        "whole-as-200": lambda data, start, end: _head(200, data),
        "page-as-206": lambda data, start, end: _part(b"<html>" * 200, 0, min(end - start, 1000)),
        "nothing": lambda data, start, end: b"",
        "garbage": lambda data, start, end: random.Random(start).randbytes(500),
        "half-a-head": lambda data, start, end: b"HTTP/1.1 206 Partial\r\nContent-Le",
        "many-headers": lambda data, start, end: _part(data, start, end, **{f"X_{n}": "x" * 90 for n in range(2000)}),
        "long-header": lambda data, start, end: _part(data, start, end, X="x" * 300_000),
        "gzip-bomb": _bomb,
        "retry-later": lambda data, start, end: _head(429, b"", Retry_After="\u00b2"),
        "retry-in-a-year": lambda data, start, end: _head(503, b"", Retry_After="31536000"),
        "drip": lambda data, start, end: b"",
    }
    return made


ANSWERS = _answers()


@dataclass
class OddServer:
    """What the server does: which answer, and for which share of the requests (0: for the first one only)."""

    folder: Path
    answer: str = ""
    share: float = 1.0
    url: str = ""
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def odd(self) -> bool:
        """Return whether the next request gets the odd answer."""
        with self.lock:
            self.requests += 1
            if not self.answer:
                return False
            return self.share >= 1 or (self.requests == 1 if not self.share else self.requests % 2 == 0)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, odd: OddServer, *arguments: object) -> None:
        self.odd = odd
        super().__init__(*arguments)

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.odd.folder / Path(self.path.split("?")[0]).name
        data = path.read_bytes() if path.is_file() else b""
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, len(data)
        if match and match[1]:
            start, end = int(match[1]), min(len(data), int(match[2]) + 1 if match[2] else len(data))
        elif match and match[2]:
            start = max(0, len(data) - int(match[2]))
        self.close_connection = True
        with suppress(OSError):
            if self.odd.odd():
                self.wfile.write(ANSWERS[self.odd.answer](data, start, end))
                if self.odd.answer == "drip":
                    self._drip(data, start, end)
            elif match:
                self.wfile.write(_part(data, start, end, Connection="close"))
            else:
                self.wfile.write(_head(200 if data else 404, data, ETag='"1"', Connection="close"))

    def _drip(self, data: bytes, start: int, end: int) -> None:
        self.wfile.write(_part(data, start, end).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        for place in range(start, min(end, start + 60)):
            self.wfile.write(data[place : place + 1])
            self.wfile.flush()
            time.sleep(0.3)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that closed the connection."""


@contextmanager
def odd_server(folder: Path, answer: str, share: float) -> Iterator[OddServer]:
    """Serve the files of a folder until the block ends."""
    odd = OddServer(folder, answer, share)
    server = _Server(("127.0.0.1", 0), partial(_Handler, odd))
    odd.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield odd
    finally:
        server.shutdown()
        server.server_close()


class Http:
    """The family."""

    def cases(self, fixture: Path) -> list[str]:
        """Return the names of all cases."""
        return ["none always", *(f"{answer} {when}" for answer in ANSWERS for when in WHEN)]

    def run(self, trial: Trial, name: str) -> None:
        """Build from the odd server; if that fails, build from the repaired one."""
        from handdata.sources import http

        answer, when = name.split(" ")
        http._MAX_DELAY = 0.1  # seconds; else a try lasts minutes where the server asks for a pause
        os.environ["HAND1000_CACHE"] = str(trial.folder / "cache")
        with odd_server(trial.fixture / "world", answer.replace("none", ""), WHEN[when]) as server:
            places = ["--source.annotations", f"{server.url}/annotations.zip"]
            places += ["--source.images", server.url + "/{gesture}.zip"]
            words = ["build", trial.fixture / "recipe.toml", "--out", trial.folder / "build", *places, *FETCH]
            if trial.run("handdata", *words):
                server.answer = ""
                if trial.run("handdata", *words):
                    trial.wrong.append(f"the repaired server does not help: {trial.ended[-1].errors[-300:]}")
                    return
        if trial.ended[-1].code == 0:
            trial.compare(trial.folder / "build" / "images", "build/images")


FAMILY = Http()
