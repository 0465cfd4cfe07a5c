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
from functools import cache
from typing import Any

from handdata.errors import Unfinished, UserError
from handdata.recipe import FetchOptions
from handdata.sources.archive import TAIL_BYTES

PIECE = 8 << 20  # bytes; more is read in pieces, side by side
_SLOW_DOWN = (408, 425, 429)
_MAX_DELAY = 60.0  # seconds between two tries, whatever a server asks for


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
    tail: bytes = field(default=b"", repr=False)  # the file's last bytes, which come with the first answer
    tail_start: int = 0

    def read(self, start: int, size: int) -> bytes | bytearray:
        """Return bytes of the file, a bytearray for large parts, which come in pieces, side by side.

        Raises `Unfinished` after all tries.
        """
        if self.tail_start <= start and start + size <= self.tail_start + len(self.tail):
            return self.tail[start - self.tail_start : start - self.tail_start + size]
        pieces = [(at, min(PIECE, start + size - at)) for at in range(start, start + size, PIECE)]
        try:
            if len(pieces) <= 1:
                return self.client.read(self, start, size) if size else b""
            whole = bytearray(size)

            def read_piece(piece: tuple[int, int]) -> None:
                whole[piece[0] - start : sum(piece) - start] = self.client.read(self, *piece)

            with ThreadPoolExecutor(min(len(pieces), self.client.options.connections)) as pool:
                for _ in pool.map(read_piece, pieces):
                    pass
            return whole
        except (Trouble, Refused) as error:
            raise Unfinished(f"{self.place} cannot be read: {error}") from None

    def forget(self) -> None:
        self.tail = b""


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
        """Return a far file; without a known length, ask for length, ETag and the last bytes in one request.

        Raises `Refused` or `Trouble`.
        """
        far = Far(place, *address(place), client=self, length=length, identity=identity)
        if length < 0:
            far.tail = self.read(far, -1, TAIL_BYTES)
            far.tail_start = far.length - len(far.tail)
        return far

    def bridge(self) -> int:
        """Return the gap that is cheaper to read than another request, as observed until now, within the option."""
        return min(self.options.bridge, int(self._latency * self._rate))

    def speed(self) -> tuple[float, float]:
        """Return the observed seconds to the first byte and bytes/s of one connection."""
        return self._latency, self._rate

    def read(self, far: Far, start: int, size: int) -> bytes:
        """Return a part of a file at one place, trying again as the options say; with a start of -1 its last bytes.

        Raises `Trouble` or `Refused`.
        """
        for attempt in range(self.options.attempts):
            try:
                data = self._part(far, start, size)
                far.exhausted = 0
                return data
            except Trouble as trouble:
                last = trouble
            if self.pause(attempt, last):
                break
        far.exhausted += 1
        raise Trouble(f"{last}, {self.options.attempts} times")

    def pause(self, attempt: int, trouble: Trouble) -> bool:
        """Wait before another try, longer after each; return whether the client was stopped meanwhile."""
        delay = max(trouble.wait, self.options.backoff * 2**attempt * random.random())
        return self.stopped.wait(min(_MAX_DELAY, delay))

    def close(self) -> None:
        self.stopped.set()
        if self._http is not None:
            self._http.close()

    def _part(self, far: Far, start: int, size: int) -> bytes:
        part = f"{start}-{start + size - 1}" if start >= 0 else f"-{size}"
        headers = {"Range": f"bytes={part}", **if_range(far)}
        began = time.perf_counter()
        with self.request(far, headers) as response:
            first = time.perf_counter()
            if response.status_code != 206:
                explain(far, response)
            size = _check_part(far, response.headers, start, size)
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
    def request(self, far: Far, headers: dict[str, str]) -> Iterator[Any]:
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
    """Return URL and headers of a place; a Hub file's through huggingface_hub, with the user's token if any.

    Not through its `build_hf_headers`, which reports installed packages and asks the Hub for a list of agents.
    """
    if not place.startswith("hf://"):
        return place, {}
    from huggingface_hub import constants, get_token, hf_hub_url
    from huggingface_hub.errors import HfUriError
    from huggingface_hub.utils import parse_hf_uri  # type: ignore[attr-defined]

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
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return url, {"Authorization": f"Bearer {token}"} if token else {}


@cache
def _trust() -> Any:
    """Return the certificates to trust: 0.2 s of work, done once for all clients."""
    import httpx2

    return httpx2.create_ssl_context()


def explain(far: Far, response: Any) -> None:
    """Raise what an answer other than 206 means."""
    status, headers = response.status_code, response.headers
    if status in _SLOW_DOWN or status >= 500:
        raise Trouble(f"HTTP {status}", _retry_after(headers))
    if status == 416 and far.length >= 0 and headers.get("Content-Range") not in (None, f"bytes */{far.length}"):
        raise Replaced(f"it is another file now ({headers['Content-Range']} instead of {far.length:,} bytes)")
    if status == 200 and not is_page(far, response):
        found = identity_of(headers)
        length = int(headers.get("Content-Length", -1))
        if far.length >= 0 and (length != far.length or (far.identity and found and found != far.identity)):
            raise Replaced(f"it was replaced ({length:,} bytes, ETag {found}; was {far.length:,}, {far.identity})")
        raise NoRanges("the host serves no parts of files: add --source.whole to download the archive before use")
    if status in (200, 416):
        raise Trouble(f"a page of type {headers.get('Content-Type', 'unknown')} instead of the file, HTTP {status}")
    raise Refused(f"HTTP {status}")


def _check_part(far: Far, headers: Any, start: int, size: int) -> int:
    """Check that a 206 answer is the part asked for, of the same file, and return the part's size.

    Length and ETag are learnt from the first answer.
    """
    said = headers.get("Content-Range", "")
    part, _, total = said.removeprefix("bytes ").partition("/")
    if start < 0 and total.isdigit():
        size = min(size, int(total))
        start = int(total) - size
    if part != f"{start}-{start + size - 1}" or not total.isdigit():
        raise Trouble(f"Content-Range '{said}' instead of bytes {start}-{start + size - 1}")
    found = identity_of(headers)
    if far.length < 0:
        far.length, far.identity = int(total), found
    elif int(total) != far.length or (far.identity and found and found != far.identity):
        raise Replaced(f"it was replaced ({int(total):,} bytes, ETag {found}; was {far.length:,}, {far.identity})")
    return size


def is_page(far: Far, response: Any) -> bool:
    """Tell an error page that comes with status 200 from the file itself, by its type, length and first bytes."""
    headers = response.headers
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind.endswith(("json", "xml", "html")):
        return True
    if far.length >= 0 and headers.get("Content-Length") == str(far.length):
        return False
    return not next(response.iter_raw(), b"").startswith(b"PK")


def identity_of(headers: Any) -> str:
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


def if_range(far: Far) -> dict[str, str]:
    """A weak ETag may not stand in If-Range (RFC 9110, section 13.1.5); it is compared with the answer's instead."""
    return {"If-Range": far.identity} if far.identity and not far.identity.startswith("W/") else {}


def _retry_after(headers: Any) -> float:
    from email.utils import parsedate_to_datetime

    value = headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
