"""Paths and places of files in recipes: relative ones become absolute; {gesture} stands for one archive per gesture."""

import re
from collections.abc import Callable
from pathlib import Path

from handdata.shipped import known_archives

GESTURE = "{gesture}"  # placeholder in a place: one archive per gesture
_PLACEHOLDER = re.compile(r"\{\{gesture\}\}|\{gesture\}")


def absolute_place(place: str, folder: Path) -> str:
    """Return a path as an absolute one that starts at `folder`; URLs and names of `sources.toml` stay as they are.

    `{gesture}` in `place` is a placeholder. In the name of `folder` it is literal text, and becomes `{{gesture}}`.
    """
    if "://" in place or place.startswith("hf:") or place in known_archives():
        return place
    try:
        path = Path(place).expanduser()
    except RuntimeError:  # ~name of a person that this machine does not know
        path = Path(place)
    if path.is_absolute():
        return str(path)
    return str(Path(str(folder.absolute()).replace(GESTURE, f"{{{GESTURE}}}")) / path)


def with_gesture(place: str, gesture: str | None) -> str:
    """Return a place with the placeholder `{gesture}` replaced; `{{gesture}}` is the literal text `{gesture}`."""
    return _PLACEHOLDER.sub(lambda match: GESTURE if match[0] != GESTURE else gesture or "", place)


def has_gesture(place: str) -> bool:
    """Return whether a place has the placeholder `{gesture}`."""
    return any(match[0] == GESTURE for match in _PLACEHOLDER.finditer(place))


def existing(name: str, folder: Path, exists: Callable[[Path], bool]) -> str:
    """Return the absolute path of a name in a folder if it exists there, else the name."""
    path = (folder / name).absolute()
    return str(path) if exists(path) else name
