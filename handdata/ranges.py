"""Read parts of far files: ranged HTTP requests that are checked, retried, and shared out over several places.

What a server may do wrong is met here: a part that is not the part asked for, an error page with status 200, a body
that breaks off, a request too many, a file that was replaced meanwhile, a host that serves no parts at all.
"""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

from handdata.errors import Unfinished, UserError

PIECE = 8 << 20  # bytes; more is read in pieces, side by side
_SLOW_DOWN = (408, 425, 429)
_MAX_DELAY = 60.0  # seconds between two tries, whatever a server asks for


@dataclass(frozen=True)
class FetchOptions:
    """How archives are read from."""

    connections: int = 16  # kept alive, at the same time
    bridge: int = 65_536  # bytes; largest gap between two members that is read to save a request
    attempts: int = 8  # tries of one request before the next place is asked
    timeout: float = 30.0  # seconds without a byte
    backoff: float = 0.5  # seconds; doubles with every try, times a random number in 0..1
    largest: int = 64 << 20  # bytes; a member larger than this, packed or unpacked, is not fetched


class Trouble(Exception):
    """One request went wrong in a way that another try may mend."""

    def __init__(self, detail: str, wait: float = 0.0) -> None:
        super().__init__(detail)
        self.wait = wait  # seconds that the server asks for


class Refused(Exception):
    """A place does not give the file, or not in the way we need: another try is of no use."""


class Replaced(Refused):
    """A place has another file now than the one that was indexed."""


class NoRanges(Refused):
    """A place gives the file as a whole only."""


@dataclass
class Far:
    """A file at one place. `length` -1: not asked yet."""

    place: str
    url: str
    headers: dict[str, str]
    client: "Client" = field(repr=False)
    length: int = -1
    identity: str = ""  # ETag, else Last-Modified
    exhausted: int = 0  # reads in a row that failed after all attempts
    final_url: str = ""  # where redirects led, asked directly from then on

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of the file; large parts come in pieces, side by side. Raises `Unfinished` after all tries."""
        pieces = [(at, min(PIECE, start + size - at)) for at in range(start, start + size, PIECE)]
        try:
            if len(pieces) <= 1:
                return self.client.read(self, start, size) if size else b""
            with ThreadPoolExecutor(min(len(pieces), self.client.options.connections)) as pool:
                whole, at = bytearray(size), 0
                for piece in pool.map(lambda one: self.client.read(self, *one), pieces):
                    whole[at : at + len(piece)] = piece
                    at += len(piece)
                return whole  # type: ignore[return-value]
        except (Trouble, Refused) as error:
            raise Unfinished(f"{self.place} cannot be read: {error}") from None


class Client:
    """Reads parts of far files with kept-alive connections. Nothing is imported or opened before the first request."""

    def __init__(self, options: FetchOptions) -> None:
        self.options = options
        self.requests, self.bytes, self.seconds = 0, 0, 0.0
        self.stopped = threading.Event()  # set: no further tries
        self._latency, self._rate = 0.05, 2e6  # seconds to the first byte, bytes/s of one connection: running means
        self._lock = threading.Lock()
        self._http: Any = None

    def try_open(self, place: str, troubles: list[str]) -> Far | None:
        """Open a far file, or note why it cannot be opened."""
        try:
            return self.open(place)
        except (Trouble, Refused) as error:
            troubles.append(f"{place}: {error}")
            return None

    def open(self, place: str, length: int = -1, identity: str = "") -> Far:
        """Return a far file; without a known length, ask for length and ETag. Raises `Refused` or `Trouble`."""
        far = Far(place, *address(place), client=self, length=length, identity=identity)
        if length < 0:
            self.read(far, 0, 1)
        return far

    def bridge(self) -> int:
        """Return the gap that is cheaper to read than another request, as observed until now, within the option."""
        return min(self.options.bridge, int(self._latency * self._rate))

    def speed(self) -> tuple[float, float]:
        """Return the observed seconds to the first byte and bytes/s of one connection."""
        return self._latency, self._rate

    def read(self, far: Far, start: int, size: int) -> bytes:
        """Return a part of a file at one place, trying again as the options say. Raises `Trouble` or `Refused`."""
        for attempt in range(self.options.attempts):
            try:
                data = self._part(far, start, size)
                far.exhausted = 0
                return data
            except Trouble as trouble:
                last = trouble
            delay = self.options.backoff * 2**attempt * random.random()
            if self.stopped.wait(min(_MAX_DELAY, max(delay, last.wait))):
                break
        far.exhausted += 1
        raise Trouble(f"{last}, {self.options.attempts} times")

    def download(self, far: Far, path: Any, progress: Any) -> None:
        """Write the whole file to a path, going on where an earlier download stopped if the place allows it."""
        partial = path.with_name(f".{path.name}.download")
        for attempt in range(self.options.attempts):
            try:
                self._append(far, partial, progress)
                partial.replace(path)
                return
            except Trouble as trouble:
                last = trouble
            self.stopped.wait(min(_MAX_DELAY, max(self.options.backoff * 2**attempt * random.random(), last.wait)))
        raise Unfinished(f"{far.place} cannot be downloaded: {last}; the same command goes on where it stopped")

    def close(self) -> None:
        self.stopped.set()
        if self._http is not None:
            self._http.close()

    def _part(self, far: Far, start: int, size: int) -> bytes:
        headers = {"Range": f"bytes={start}-{start + size - 1}", **_if_range(far)}
        began = time.perf_counter()
        with self._request(far, headers) as response:
            first = time.perf_counter()
            if response.status_code != 206:
                _explain(far, response)
            _check_part(far, response.headers, start, size)
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > size:
                    raise Trouble("more bytes than the part that was asked for")
            if len(body) != size:
                raise Trouble(f"{len(body):,} bytes instead of {size:,}")
        self._observe(first - began, time.perf_counter() - first, size)
        return bytes(body)

    @contextmanager
    def _request(self, far: Far, headers: dict[str, str]) -> Iterator[Any]:
        """Send one request, turning what the HTTP library raises into `Trouble`."""
        import httpx2

        asked = far.final_url or far.url
        own = far.headers if asked == far.url else {}  # a token is for the Hub, not for where it redirects to
        try:
            with self._client().stream(
                "GET", asked, headers={**own, "Accept-Encoding": "identity", **headers}
            ) as answer:
                if answer.status_code in (401, 403, 410) and far.final_url:
                    far.final_url = ""  # a signed address has run out: ask the first one again
                    raise Trouble(f"HTTP {answer.status_code}")
                if answer.history:
                    far.final_url = str(answer.url)
                yield answer
        except httpx2.TimeoutException as error:
            raise Trouble(f"no answer in {self.options.timeout:g} s ({type(error).__name__})") from None
        except (httpx2.TransportError, httpx2.TooManyRedirects) as error:
            raise Trouble(str(error) or type(error).__name__) from None

    def _append(self, far: Far, partial: Any, progress: Any) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Range": f"bytes={have}-", **_if_range(far)} if have and far.identity else {}
        with self._request(far, headers) as response:
            if response.status_code not in (200, 206) or response.headers.get("Content-Type", "").startswith("text/"):
                _explain(far, response)
            if response.status_code == 200:
                have = 0
                far.length = int(response.headers.get("Content-Length", -1))
                far.identity = _identity(response.headers)
            progress.update(have - progress.n)
            with partial.open("r+b" if have else "wb") as file:
                file.seek(have)
                for chunk in response.iter_raw():
                    file.write(chunk)
                    progress.update(len(chunk))
                file.truncate()
                if far.length >= 0 and file.tell() != far.length:
                    raise Trouble(f"{file.tell():,} bytes instead of {far.length:,}")

    def _client(self) -> Any:
        with self._lock:
            if self._http is None:
                import httpx2

                limits = httpx2.Limits(
                    max_connections=self.options.connections, max_keepalive_connections=self.options.connections
                )
                timeout = httpx2.Timeout(self.options.timeout, pool=None)
                self._http = httpx2.Client(limits=limits, timeout=timeout, follow_redirects=True, verify=_trust())
            return self._http

    def _observe(self, latency: float, body: float, size: int) -> None:
        with self._lock:
            self.requests += 1
            self.bytes += size
            self.seconds += latency + body
            self._latency += 0.1 * (latency - self._latency)
            if size >= 65_536:  # a smaller body comes along with the headers and tells nothing of the rate
                self._rate += 0.1 * (size / max(body, 1e-4) - self._rate)


def address(place: str) -> tuple[str, dict[str, str]]:
    """Return URL and headers of a place; a Hub file's through huggingface_hub, with the user's token if any."""
    if not place.startswith("hf://"):
        return place, {}
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import HfUriError
    from huggingface_hub.utils import build_hf_headers, parse_hf_uri  # type: ignore[attr-defined]

    try:
        uri = parse_hf_uri(place)
    except HfUriError as error:
        raise UserError(
            f"{place} is no file of a Hub repository ({error}): write hf://datasets/USER/NAME/FILE"
        ) from None
    if not uri.path_in_repo:
        raise UserError(f"{place} names no file: write hf://datasets/USER/NAME/FILE")
    if constants.is_offline_mode():
        raise UserError(f"{place} is on the Hub, but HF_HUB_OFFLINE is set: unset it or name a local file")
    url = hf_hub_url(uri.id, uri.path_in_repo, repo_type=uri.type, revision=uri.revision)
    return url, build_hf_headers(library_name="hand1000")


@cache
def _trust() -> Any:
    """Return the certificates to trust: 0.2 s of work, done once for all clients."""
    import httpx2

    return httpx2.create_ssl_context()


def _explain(far: Far, response: Any) -> None:
    """Raise what an answer other than 206 means."""
    status, headers = response.status_code, response.headers
    if status in _SLOW_DOWN or status >= 500:
        raise Trouble(f"HTTP {status}", _retry_after(headers))
    if status == 416 and far.length >= 0 and headers.get("Content-Range") not in (None, f"bytes */{far.length}"):
        raise Replaced(f"it is another file now ({headers['Content-Range']} instead of {far.length:,} bytes)")
    if status == 200 and not _is_page(far, response):
        found = _identity(headers)
        length = int(headers.get("Content-Length", -1))
        if far.length >= 0 and (length != far.length or (far.identity and found and found != far.identity)):
            raise Replaced(f"it was replaced ({length:,} bytes, ETag {found}; was {far.length:,}, {far.identity})")
        raise NoRanges("the host serves no parts of files: add --source.whole to download the archive before use")
    if status in (200, 416):
        raise Trouble(f"a page of type {headers.get('Content-Type', 'unknown')} instead of the file, HTTP {status}")
    raise Refused(f"HTTP {status}")


def _check_part(far: Far, headers: Any, start: int, size: int) -> None:
    """Check that a 206 answer is the part asked for, of the same file; learn length and ETag from the first one."""
    said = headers.get("Content-Range", "")
    part, _, total = said.removeprefix("bytes ").partition("/")
    if part != f"{start}-{start + size - 1}" or not total.isdigit():
        raise Trouble(f"Content-Range '{said}' instead of bytes {start}-{start + size - 1}")
    found = _identity(headers)
    if far.length < 0:
        far.length, far.identity = int(total), found
    elif int(total) != far.length or (far.identity and found and found != far.identity):
        raise Replaced(f"it was replaced ({int(total):,} bytes, ETag {found}; was {far.length:,}, {far.identity})")


def _is_page(far: Far, response: Any) -> bool:
    """Tell an error page that comes with status 200 from the file itself, by its type, length and first bytes."""
    headers = response.headers
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind.endswith(("json", "xml", "html")):
        return True
    if far.length >= 0 and headers.get("Content-Length") == str(far.length):
        return False
    return not next(response.iter_raw(), b"").startswith(b"PK")


def _identity(headers: Any) -> str:
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


def _if_range(far: Far) -> dict[str, str]:
    """A weak ETag may not stand in If-Range (RFC 9110, section 13.1.5); it is compared with the answer's instead."""
    return {"If-Range": far.identity} if far.identity and not far.identity.startswith("W/") else {}


def _retry_after(headers: Any) -> float:
    value = headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
