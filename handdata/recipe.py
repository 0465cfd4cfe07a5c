"""A recipe: everything that decides what a build contains, as TOML, checked and resolved."""

import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from handdata.errors import UserError
from handdata.options import (
    AssembleOptions,
    CaptionOptions,
    CheckOptions,
    FetchOptions,
    ImageOptions,
    LandmarkOptions,
    PublishOptions,
    RenderOptions,
    RewriteOptions,
    SelectOptions,
    SourceOptions,
)
from handdata.resources import resource

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """One build: a name and one table per stage."""

    name: str  # of the dataset
    source: SourceOptions = field(default_factory=SourceOptions)
    render: RenderOptions = field(default_factory=RenderOptions)
    select: SelectOptions = field(default_factory=SelectOptions)
    image: ImageOptions = field(default_factory=ImageOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    landmarks: LandmarkOptions = field(default_factory=LandmarkOptions)
    caption: CaptionOptions = field(default_factory=CaptionOptions)
    rewrite: RewriteOptions = field(default_factory=RewriteOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    assemble: AssembleOptions = field(default_factory=AssembleOptions)
    publish: PublishOptions = field(default_factory=PublishOptions)


def find(recipe: str) -> Path:
    """Return the file that RECIPE on a command line means: a path, or the name of a shipped recipe."""
    if recipe.endswith(".toml") or "/" in recipe:
        if not Path(recipe).is_file():
            raise UserError(f"there is no recipe file {recipe}")
        return Path(recipe)
    folder = resource("manifests")
    names = shipped()
    if recipe not in names:
        raise UserError(f"'{recipe}' is neither a recipe file (.toml) nor a shipped recipe ({', '.join(names)})")
    return folder / f"{recipe}.toml"


def shipped() -> list[str]:
    """Return the names of the recipes that come with the package."""
    not_recipes = {"assets", "sources"}
    return sorted(path.stem for path in resource("manifests").glob("*.toml") if path.stem not in not_recipes)


def load(path: Path) -> Recipe:
    """Read a recipe file. Unknown keys and wrong types raise `UserError` naming the nearest known key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    return from_table(Recipe, table, str(path))


def from_table(cls: type[T], table: dict[str, Any], where: str) -> T:
    """Make a dataclass (nested ones too) from a TOML table, as strict as the types say."""
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise UserError(f"unknown key '{key}' in {where}; the nearest known one is '{near[0]}'")
        values[key] = _convert(hints[key], value, f"{where}, key '{key}'")
    missing = [f.name for f in known.values() if f.name not in values and _required(f)]
    if missing:
        raise UserError(f"{where} lacks the key '{missing[0]}'")
    return cls(**values)


def to_table(options: Any) -> dict[str, Any]:
    """Return a dataclass as a TOML table: tuples become lists, keys that are None are left out."""
    pairs = ((f.name, getattr(options, f.name)) for f in dataclasses.fields(options))
    return {name: _plain(value) for name, value in pairs if value is not None}


def dump(recipe: Recipe) -> str:
    """Return the recipe, every key spelled out, as the TOML text that `load` reads back to an equal recipe."""
    import tomli_w

    return tomli_w.dumps(to_table(recipe))


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    return list(value) if isinstance(value, tuple) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_table(hint, value, where)  # type: ignore[arg-type]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        values = [value] if isinstance(value, str) else value  # one mirror may be given without brackets
        if isinstance(values, list):
            return tuple(_convert(arguments[0], one, where) for one in values)
    elif origin is typing.Literal:
        if value in arguments:
            return value
        raise UserError(f"{where} is {value!r}, it must be one of {', '.join(map(repr, arguments))}")
    elif origin in (typing.Union, types.UnionType):
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    kinds = {tuple: "a list", str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    raise UserError(f"{where} is {value!r}, it must be {kinds.get(origin or hint, 'a table')}")
