"""Data files that the package ships (prompts, manifests, mini models), in a wheel or a checkout, and its version."""

import base64
import hashlib
import json
import tomllib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_PACKED = Path(__file__).parent / "_data"  # their folder in the wheel (pyproject.toml, force-include)
_CHECKOUT = _PACKED.parent.parent


def resource(name: str) -> Path:
    """Return the path of a shipped data file or folder, such as `manifests/assets.toml`.

    Raises `FileNotFoundError` if this version ships no such file.
    """
    root = _PACKED if _PACKED.is_dir() else _CHECKOUT
    path = root / name
    if not path.exists():
        raise FileNotFoundError(f"hand1000 ships no file {name} ({root})")
    return path


def shipped_model(name: str) -> Path | None:
    """Return the folder of a shipped model, such as `mini-blip`; None for an unknown name."""
    try:
        models = resource("models")
    except FileNotFoundError:
        return None
    return next((folder for folder in models.iterdir() if folder.is_dir() and folder.name == name), None)


@cache
def known_archives() -> dict[str, dict]:
    """Return the tables of `manifests/sources.toml` by name."""
    return tomllib.loads(resource("manifests/sources.toml").read_text(encoding="utf-8"))


def version() -> str:
    """Return the version of hand1000: that of the installed package, else that of the checkout's pyproject.toml."""
    from importlib import metadata

    try:
        return metadata.version("hand1000")
    except metadata.PackageNotFoundError:
        project = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["version"])


def versions(*packages: str) -> dict[str, str | None]:
    """Return the version of hand1000 and those of packages by name, None for one that is not installed."""
    from importlib import metadata

    installed: dict[str, str | None] = {"hand1000": version(), **dict.fromkeys(packages)}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def filled_page(template: Path, place: str, data: Any) -> str:
    """Return a page with one script, and data as JSON in its `place`, escaped so that no text becomes markup or script.

    The page's content security policy gets the hash of the script in place of SCRIPT-HASH.
    """
    text = json.dumps(data, ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    page = template.read_text(encoding="utf-8")
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.replace("SCRIPT-HASH", f"sha256-{digest}").replace(place, text)
