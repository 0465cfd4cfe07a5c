"""HTTP requests that end: each has a deadline, a cap on its body, and redirects that carry no key to another host.

The time-outs of the HTTP library count from byte to byte, so a server that drips one byte now and then holds a request
for ever. Here a connection must deliver SLOWEST bytes/s over every window of the time-out, headers included.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from handdata.errors import UserError
from handdata.web.urls import without_secrets

SLOWEST = 4096  # bytes/s of one connection; a slower answer fails
_MOST_REDIRECTS = 10
_current = threading.local()  # `deadline`: that of this thread's request


class TransientError(Exception):
    """A request failed in a way that another attempt may not."""

    def __init__(self, detail: str, wait: float = 0.0) -> None:
        super().__init__(detail)
        self.wait = wait  # seconds, from the server's Retry-After


class Refused(Exception):
    """A place does not serve the file: another attempt would fail too."""


class Deadline:
    """The end of one request: after a window in which too few bytes arrived, or after `total` seconds.

    Only the time spent waiting for the network counts.
    """

    def __init__(self, window: float, total: float | None = None) -> None:
        self.window, self._total = window, total
        self._waited = self._mark = 0.0  # seconds in all, and when the present window began
        self._arrived = 0  # bytes in the present window

    def left(self) -> float:
        """Return the seconds that the next operation may take."""
        ends = self._mark + self.window
        return (ends if self._total is None else min(ends, self._total)) - self._waited

    def spend(self, seconds: float, arrived: int = 0) -> None:
        """Count the time of an operation and the bytes that it brought."""
        self._waited += seconds
        self._arrived += arrived
        if self._arrived >= SLOWEST * self.window:
            self._mark, self._arrived = self._waited, 0


def open_client(timeout: float, connections: int) -> Any:
    """Return an `httpx2.Client` whose requests obey the deadline of `exchange`. Raises `UserError` for a bad proxy."""
    import httpx2

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # its lines at INFO hold whole addresses
    try:
        client = httpx2.Client(
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=httpx2.Timeout(timeout, pool=None),
            verify=_certificates(),
        )
    except (ValueError, ImportError, httpx2.InvalidURL):
        raise UserError(
            "the environment's proxy cannot be used: correct HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
        ) from None
    obey_deadlines(client)
    return client


def require_proxies() -> None:
    """Raise `UserError` if the environment's proxies cannot be used: other libraries fail with errors of all kinds."""
    open_client(1.0, 1).close()


@contextmanager
def exchange(client: Any, request: dict[str, Any], deadline: Deadline) -> Iterator[Any]:
    """Send a request, follow its redirects, and yield the answer, whose body is not read yet.

    `request` holds the arguments of `httpx2.Client.build_request`. `history` of the answer lists the redirects. Raises
    `TransientError` and `Refused`, which never quote an address's secrets or a header.
    """
    import httpx2

    history: list[Any] = []
    with _converted(deadline), within(deadline):
        try:
            response = client.send(client.build_request(**request), stream=True, follow_redirects=False)
            while response.next_request is not None:
                response.close()  # the body of a redirect is not read
                history.append(response)
                if len(history) > _MOST_REDIRECTS:
                    raise Refused(f"it redirects more than {_MOST_REDIRECTS} times")
                response = client.send(response.next_request, stream=True, follow_redirects=False)
        except (UnicodeError, OverflowError):  # of names and ports that no socket accepts
            raise httpx2.InvalidURL("not a valid URL") from None
        response.history = history
        try:
            yield response
        finally:
            response.close()


@contextmanager
def within(deadline: Deadline) -> Iterator[None]:
    """Apply a deadline to all requests of this thread in the block. They end with the library's time-out errors."""
    _current.deadline = deadline
    try:
        yield
    finally:
        _current.deadline = None


def obey_deadlines(client: Any) -> None:
    """Make the connections of an `httpx2.Client` obey the deadline of the thread that uses them."""
    for transport in (client._transport, *client._mounts.values()):  # the client has no public way to its connections
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend)


def whole_number(text: str | None) -> int | None:
    """Return the number that a header states, None for anything but 1 to 18 plain digits."""
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None


def shown(text: str, most: int = 80) -> str:
    """Return a server's words for a message: printable, shortened, without secrets."""
    printable = "".join(c if c.isprintable() else "?" for c in without_secrets(text))
    return printable if len(printable) <= most else printable[:most] + "..."


@contextmanager
def _converted(deadline: Deadline) -> Iterator[None]:
    """Convert the errors of the HTTP library."""
    import httpx2

    try:
        yield
    except httpx2.TimeoutException as error:
        raise TransientError(f"no answer in {deadline.window:g} s ({type(error).__name__})") from None
    except httpx2.LocalProtocolError:  # its message may hold the header with the key
        raise Refused("the request cannot be sent: its address or the user's token is not valid") from None
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL):
        raise Refused("it leads to an address that is not a valid http or https URL") from None
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        name = type(error).__name__
        raise TransientError(f"{name}: {shown(str(error), 160)}" if str(error) else name) from None


class _Backend:
    """The HTTP library's way to open connections, with the deadline of the thread's request."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, *arguments: Any, timeout: float | None = None, **more: Any) -> "_Stream":
        return _Stream(_timed("Connect", self._inner.connect_tcp, arguments, timeout, more))

    def connect_unix_socket(self, *arguments: Any, timeout: float | None = None, **more: Any) -> "_Stream":
        return _Stream(_timed("Connect", self._inner.connect_unix_socket, arguments, timeout, more))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream:
    """One connection, with the deadline of the thread's request."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = _timed("Read", self._inner.read, (max_bytes,), timeout)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        _timed("Write", self._inner.write, (buffer,), timeout)

    def start_tls(self, *arguments: Any, timeout: float | None = None, **more: Any) -> "_Stream":
        return _Stream(_timed("Connect", self._inner.start_tls, arguments, timeout, more))

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _timed(
    kind: str,
    operation: Callable[..., Any],
    arguments: tuple[Any, ...],
    timeout: float | None,
    more: dict[str, Any] | None = None,
) -> Any:
    """Call an operation of a connection, for no longer than the deadline of the thread's request allows."""
    import httpcore2

    deadline: Deadline | None = getattr(_current, "deadline", None)
    if deadline is None:
        return operation(*arguments, timeout=timeout, **(more or {}))
    left = deadline.left()
    if left <= 0:
        raise getattr(httpcore2, f"{kind}Timeout")("the deadline of the request has passed")
    began, result = time.monotonic(), None
    try:
        result = operation(*arguments, timeout=left if timeout is None else min(left, timeout), **(more or {}))
        return result
    finally:
        deadline.spend(time.monotonic() - began, len(result) if isinstance(result, bytes) else 0)


@cache
def _certificates() -> Any:
    """Return the trusted certificates. Loading takes 0.2 s, so that all clients share them."""
    import httpx2

    return httpx2.create_ssl_context()
