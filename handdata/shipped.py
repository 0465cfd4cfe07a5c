"""Find the data files that the package ships, in a wheel or in a checkout: prompts, manifests and mini models."""

import tomllib
from importlib import metadata
from pathlib import Path

_PACKED = Path(__file__).parent / "_data"  # where the wheel carries them (pyproject.toml, force-include)


def resource(name: str) -> Path:
    """Return the path of a shipped data file or folder, such as `manifests/assets.toml`.

    Raises `FileNotFoundError` if this version ships no such file.
    """
    root = _PACKED if _PACKED.is_dir() else _PACKED.parent.parent
    path = root / name
    if not path.exists():
        raise FileNotFoundError(f"{name} is not among the files that hand1000 ships ({root})")
    return path


def shipped_model(name: str) -> Path | None:
    """Return the folder of a model that hand1000 ships under this name, such as `mini-blip`; None if there is none."""
    try:
        models = resource("models")
    except FileNotFoundError:
        return None
    return next((folder for folder in models.iterdir() if folder.is_dir() and folder.name == name), None)


def version() -> str:
    """Return the version of hand1000: that of the installed package, else that in the checkout's pyproject.toml."""
    try:
        return metadata.version("hand1000")
    except metadata.PackageNotFoundError:
        project = tomllib.loads((_PACKED.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
