"""Objects below a URL of S3 or Google Cloud Storage, by name: read, put and listed whole.

Credentials, region and endpoint are those of the environment. None of them is stored or printed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from handdata.errors import Unfinished, UserError
from handdata.web.urls import public_url, without_secrets

_ATTEMPTS = 6  # of a request that fails for a reason that may pass, with growing pauses
_TIMEOUTS = {"connect_timeout": 10.0, "request_timeout": 60.0}  # seconds; the second without a byte
_MISTAKES = (  # parts of messages of the client libraries: trying again does not help
    "NO_SUCH_BUCKET", "ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "PERMISSION_DENIED",
    "UNAUTHENTICATED", "FORBIDDEN", "INVALID_CLIENT_TOKEN", "EXPIRED_TOKEN", "credential", "Could not resolve host",
    "does not exist",
)  # fmt: skip


class Objects:
    """The objects below a URL. Shared by threads; another process opens its own connections."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._scheme, _, self._root = url.partition("://")

    def __reduce__(self) -> tuple[Any, ...]:
        return Objects, (self.url,)

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes, None if it does not exist."""
        with self._reported():
            try:
                with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                    data: bytes = stream.read()
                    return data
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> None:
        """Make an object appear, whole, or replace it."""
        with self._reported():
            stream = self._files.open_output_stream(f"{self._root}/{name}")
            stream.write(data)  # not in a `with` block, whose end would make what was written so far appear
            stream.close()

    def listed(self, folder: str = "") -> dict[str, fs.FileInfo]:
        """Return size and time of all objects below a folder by name; the service lists what was put before."""
        below = f"{self._root}/{folder}".rstrip("/")
        with self._reported():
            found = self._files.get_file_info(fs.FileSelector(below, allow_not_found=True, recursive=True))
        return {info.path.removeprefix(f"{self._root}/"): info for info in found if info.type == fs.FileType.File}

    def remove(self, name: str) -> None:
        """Remove an object, if it exists."""
        with self._reported(), suppress(FileNotFoundError):
            self._files.delete_file(f"{self._root}/{name}")

    @cached_property
    def _files(self) -> fs.FileSystem:
        if self._scheme == "gs":
            return fs.GcsFileSystem()
        options: dict[str, Any] = {}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
                raise UserError(f"AWS_ENDPOINT_URL {public_url(endpoint)} is not valid: write https://HOST[:PORT]")
            options = {"endpoint_override": parts.netloc + parts.path.rstrip("/"), "scheme": parts.scheme}
        retries = fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
        # delayed: an object that fits a request needs one instead of three
        return fs.S3FileSystem(retry_strategy=retries, allow_delayed_open=True, **_TIMEOUTS, **options)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn the errors of the client libraries into one sentence."""
        try:
            yield
        except OSError as error:
            text = without_secrets(" ".join(str(error).split()))[:300]
            if any(mark.lower() in text.lower() for mark in _MISTAKES):
                raise UserError(
                    f"{self.url} cannot be used ({text}): check the URL, the bucket, and the credentials and endpoint"
                    " in the environment"
                ) from None
            raise Unfinished(f"{self.url} cannot be reached ({text}): the same command resumes") from None
