"""Versions of the packages that decide rows: recorded in every shard, and the same in all workers of a build."""

from typing import Any

from handdata.errors import UserError
from handdata.shipped import versions
from handdata.stages import StageSpec

Software = dict[str, str | None]  # version by package, None for one that is not installed


def software_of(stage: StageSpec, options: Any) -> Software:
    """Return the versions, in this process, of hand1000 and of the packages that decide a stage's rows."""
    packages = getattr(stage.load(), "packages", lambda options: ())
    return versions(*packages(options))


def require_installed(stage: StageSpec, options: Any) -> None:
    """Raise `UserError` if a package of a stage is not installed in this process."""
    packages = getattr(stage.load(), "packages", lambda options: ())(options)
    missing = [name for name, installed in versions(*packages).items() if name in packages and installed is None]
    if missing:
        raise UserError(f"stage {stage.name} needs {', '.join(missing)}: pip install 'hand1000[data]'")


def require_software(named: Software, here: str, there: str) -> None:
    """Raise `UserError` if this process has another version of a package than the build; `here` and `there` name both.

    Another version of a library may give other words for the same input.
    """
    other = differences(versions(*named), named)
    if other:
        raise UserError(f"{here} has {other} of {there}: install the same versions everywhere")


def differences(one: Software, other: Software) -> str:
    """Return the packages of `other` whose versions differ, as words; an empty text for equal versions."""
    names = [name for name in other if one.get(name) != other[name]]
    return ", ".join(f"{name} {one.get(name) or 'missing'} instead of {other[name] or 'none'}" for name in names)
