"""Parts of remote files: ranged HTTP requests that are checked and retried.

Servers fail in many ways, which are handled here: a part other than the requested one, an error page with status 200,
a body that breaks off, rate limits, a file that was replaced meanwhile, a host without range support.
"""

import random
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from handdata.errors import Unfinished, UserError
from handdata.huggingface import hub_token
from handdata.recipe import FetchOptions
from handdata.sources.archive import TAIL_BYTES
from handdata.web.client import Deadline, Refused, TransientError, exchange, open_client, shown, whole_number
from handdata.web.urls import public_url, require_url, without_secrets

PIECE = 8 << 20  # bytes; larger parts are read in pieces, in parallel
_SLOW_DOWN = (408, 425, 429)
_CONTENT_RANGE = re.compile("bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_MAX_DELAY = 60.0  # seconds between two attempts, however long a server asks to wait


class Replaced(Refused):
    """A place holds another file than the one that was indexed."""


class NoRanges(Refused):
    """A place serves the file only as a whole."""


@dataclass
class RemoteFile:
    """A file at one place. Length and identity are -1 and empty until the first answer, unless they are given."""

    place: str  # given as it is requested; then its public form, for messages and files
    client: "Client" = field(repr=False)
    length: int = -1
    identity: str = ""  # ETag, else Last-Modified
    exhausted: int = 0  # consecutive reads that failed after all attempts
    final_url: str = field(default="", repr=False)  # the end of the redirects, requested directly from then on
    tail: bytes = field(default=b"", repr=False)  # the file's last bytes, which come with the first answer
    compares: bool = True  # False: only the length is compared, since equal files have several identities here

    def __post_init__(self) -> None:
        self.given = self.place
        self.url, self.headers = address(self.given)
        self.place = public_url(self.given)

    def read(self, start: int, size: int) -> bytes | bytearray:
        """Return bytes of the file, fewer at its end; a large part is read in pieces, in parallel.

        Raises `Unfinished`.
        """
        size = min(size, self.length - start) if start >= 0 else 0
        if size <= 0:
            return b""
        tail_start = self.length - len(self.tail)
        if tail_start <= start and start + size <= self.length:
            return self.tail[start - tail_start : start - tail_start + size]
        starts = range(start, start + size, PIECE)
        sizes = [min(PIECE, start + size - at) for at in starts]
        try:
            if size <= PIECE:
                return self.client.read(self, start, size)
            whole = bytearray()
            with ThreadPoolExecutor(min(len(sizes), self.client.options.connections)) as pool:
                for piece in pool.map(partial(self.client.read, self), starts, sizes):
                    whole += piece
            return whole
        except Replaced as error:
            if self.compares and self.reopened():
                return self.read(start, size)
            raise Unfinished(f"{self.place} changed while it was read ({error}): run the same command again") from None
        except (TransientError, Refused) as error:
            raise Unfinished(f"{self.place} cannot be read: {error}") from None

    def reopened(self) -> bool:
        """Read the file's end again; return whether it is unchanged. From then on, only the length is compared.

        Raises `Unfinished`.
        """
        try:
            again = self.client.open(self.given)
        except (TransientError, Refused) as error:
            raise Unfinished(f"{self.place} cannot be read: {error}") from None
        self.compares, self.identity, self.final_url = False, again.identity, ""
        return again.length == self.length and again.tail.endswith(self.tail)

    def request(self, part: str = "") -> dict[str, Any]:
        """Return the arguments of an HTTP request for a part of the file, such as `0-99`, or for the whole file."""
        url = self.final_url or self.url
        headers = {"Accept-Encoding": "identity"}
        if url == self.url:
            headers |= self.headers  # with the user's token, which is for the Hub and not for the host it redirects to
        if part:
            headers["Range"] = f"bytes={part}"
        strong = self.identity.isascii() and self.identity.isprintable() and not self.identity.startswith("W/")
        if part and self.identity and strong and self.compares:
            headers["If-Range"] = self.identity  # a weak ETag is not allowed here (RFC 9110, section 13.1.5)
        return {"method": "GET", "url": url, "headers": headers}

    def follow(self, response: Any) -> None:
        """Remember where redirects led, and forget it when that signed address has expired (`TransientError`)."""
        if response.status_code in (401, 403, 410) and self.final_url:
            self.final_url = ""
            raise TransientError(f"HTTP {response.status_code}")
        first = response.history[0].url if response.history else None
        if first and (_origin(first) != _origin(response.url) or not (self.headers or first.userinfo)):
            self.final_url = str(response.url)

    def require_same(self, length: int, identity: str) -> None:
        """Raise `Replaced` where an answer comes from another file; the first answer sets length and identity."""
        if self.length < 0:
            self.length = length
        other = self.compares and self.identity and identity and identity != self.identity
        if length != self.length or other:
            known = f"{self.length:,}, {shown(self.identity)}"
            raise Replaced(f"it was replaced ({length:,} bytes, ETag {shown(identity)}; was {known})")
        self.identity = self.identity or identity


class Client:
    """Reads parts of remote files over persistent connections, which are opened with the first request."""

    def __init__(self, options: FetchOptions, progress: bool = False) -> None:
        self.options, self.progress = options, progress
        self.requests, self.bytes = 0, 0
        self.stopped = threading.Event()  # set: no further attempts
        self.latency, self.rate = 0.05, 2e6  # seconds to the first byte, bytes/s of one connection: running means
        self._lock = threading.Lock()
        self._http: Any = None

    def open(self, place: str) -> RemoteFile:
        """Return a remote file, its length, identity and last bytes read in one request.

        Raises `Refused` or `TransientError`.
        """
        file = RemoteFile(place, self)
        file.tail = self.read(file, -1, TAIL_BYTES)
        return file

    def read(self, file: RemoteFile, start: int, size: int) -> bytes:
        """Return a part of a file, after as many attempts as the options allow; with a start of -1 its last bytes.

        Raises `TransientError` or `Refused`.
        """
        part = f"{start}-{start + size - 1}" if start >= 0 else f"-{size}"
        for attempt in range(self.options.attempts):
            try:
                began = time.perf_counter()
                with exchange(self.http, file.request(part), Deadline(self.options.timeout)) as response:
                    answered = time.perf_counter()
                    data = _checked_part(file, response, start, size)
                self._observe(answered - began, time.perf_counter() - answered, len(data))
                file.exhausted = 0
                return data
            except TransientError as error:
                last = error
            if self.pause(attempt, last):
                break
        file.exhausted += 1
        raise TransientError(f"{last}, {self.options.attempts} times")

    def pause(self, attempt: int, error: TransientError) -> bool:
        """Wait before another attempt, longer after each; return whether the client was stopped meanwhile."""
        delay = max(error.wait, self.options.backoff * 2**attempt * random.random())
        return self.stopped.wait(min(_MAX_DELAY, delay))

    def bridge(self) -> int:
        """Return the largest gap in bytes that is cheaper to read than to skip with another request.

        It follows from the latency and rate observed so far, and never exceeds the option.
        """
        return min(self.options.bridge, int(self.latency * self.rate))

    def announce(self, line: str) -> None:
        """Print a line about the progress to stderr."""
        if self.progress:
            print(without_secrets(line), file=sys.stderr)

    def close(self) -> None:
        self.stopped.set()
        if self._http is not None:
            self._http.close()

    @property
    def http(self) -> Any:
        """The `httpx2.Client`."""
        with self._lock:
            if self._http is None:
                self._http = open_client(self.options.timeout, self.options.connections)
            return self._http

    def _observe(self, latency: float, body: float, size: int) -> None:
        with self._lock:
            self.requests += 1
            self.bytes += size
            self.latency += 0.1 * (latency - self.latency)
            if size >= 65_536:  # a smaller body arrives together with the headers, so that it does not show the rate
                self.rate += 0.1 * (size / max(body, 1e-4) - self.rate)


def address(place: str) -> tuple[str, dict[str, str]]:
    """Return URL and headers of a place; for a Hub file from huggingface_hub, with the user's token if they have one.

    Its `build_hf_headers` is not used: it reports installed packages and requests a list of agents from the Hub.
    """
    if not place.startswith("hf://"):
        require_url(place)
        return place, {}
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import HfUriError
    from huggingface_hub.utils import parse_hf_uri  # type: ignore[attr-defined]

    try:
        uri = parse_hf_uri(place)
    except HfUriError as error:
        cause = without_secrets(str(error))
        raise UserError(
            f"{public_url(place)} is not a file of a Hub repository ({cause}): write hf://datasets/USER/NAME/FILE"
        ) from None
    if not uri.path_in_repo:
        raise UserError(f"{public_url(place)} does not name a file: write hf://datasets/USER/NAME/FILE")
    if constants.is_offline_mode():
        raise UserError(f"{public_url(place)} is on the Hub, but HF_HUB_OFFLINE is set: unset it or name a local file")
    url = hf_hub_url(uri.id, uri.path_in_repo, repo_type=uri.type, revision=uri.revision)
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else hub_token()
    return url, {"Authorization": f"Bearer {token}"} if token else {}


def reject(file: RemoteFile, response: Any) -> NoReturn:
    """Raise the error that an unexpected answer means: anything but the requested part."""
    status, headers = response.status_code, response.headers
    if status in _SLOW_DOWN or status >= 500:
        raise TransientError(f"HTTP {status}", _retry_after(headers))
    stated = headers.get("Content-Range")
    if status == 416 and file.length >= 0 and stated not in (None, f"bytes */{file.length}"):
        raise Replaced(f"it is another file now ({shown(stated)} instead of {file.length:,} bytes)")
    if status == 200 and not _is_page(file, response):
        length = whole_number(headers.get("Content-Length"))
        if length is not None:
            file.require_same(length, identity_of(headers))
        raise NoRanges("the host does not support ranges: add --source.whole to download the archive before use")
    if status in (200, 416):
        kind = shown(headers.get("Content-Type", "unknown"))
        raise TransientError(f"a page of type {kind} instead of the file, HTTP {status}")
    hint = " (the recipe's [source] gives the password or signature of an address)" if status in (401, 403) else ""
    raise Refused(f"HTTP {status}{hint}")


def identity_of(headers: Any) -> str:
    """Return a file's ETag, else its Last-Modified, empty without both."""
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


def _checked_part(file: RemoteFile, response: Any, start: int, size: int) -> bytes:
    """Return the body of an answer, which must be the requested part of the same file."""
    file.follow(response)
    if response.status_code != 206:
        reject(file, response)
    stated = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(stated)
    first, last, total = map(int, match.groups()) if match else (-1, -1, -1)
    if start < 0 and match:
        size = min(size, total)
        start = total - size
    if (first, last) != (start, start + size - 1) or last >= total:
        raise TransientError(f"Content-Range '{shown(stated)}' instead of bytes {start}-{start + size - 1}")
    file.require_same(total, identity_of(response.headers))
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > size:
            raise TransientError("more bytes than the requested part")
    if len(body) != size:
        raise TransientError(f"{len(body):,} bytes instead of {size:,}")
    return bytes(body)


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _is_page(file: RemoteFile, response: Any) -> bool:
    """Return whether an answer with status 200 is an error page: judged by its type, length and first bytes."""
    headers = response.headers
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind.endswith(("json", "xml", "html")):
        return True
    if file.length >= 0 and headers.get("Content-Length") == str(file.length):
        return False
    return not next(response.iter_raw(), b"").startswith(b"PK")


def _retry_after(headers: Any) -> float:
    from email.utils import parsedate_to_datetime

    value = headers.get("Retry-After", "")
    seconds = whole_number(value)
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
