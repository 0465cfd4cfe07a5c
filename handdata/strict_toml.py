"""Strict conversion of TOML tables to frozen dataclasses and back, by the dataclasses' types."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from handdata.errors import UserError, require_known
from handdata.limits.numbers import fault_of

T = TypeVar("T")


def from_table(cls: type[T], table: dict[str, Any], where: str) -> T:
    """Return a dataclass, nested ones included, from a TOML table or a dict of Python values.

    `where` names the table in messages. Raises `UserError` for an unknown or missing key, a value of a wrong type and a
    number out of range.
    """
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in table.items():
        require_known(key, known, "key", f" ({where})")
        values[key] = _convert(hints[key], value, f"{where}, key '{key}'")
        fault = fault_of(cls, key, values[key])
        if fault:
            raise UserError(f"{where}, key '{key}' is {fault}")
    missing = [f.name for f in known.values() if f.name not in values and _required(f)]
    if missing:
        raise UserError(f"{where} lacks the key '{missing[0]}'")
    return cls(**values)


def to_table(options: Any) -> dict[str, Any]:
    """Return a dataclass as a TOML table: tuples become lists; keys that are None and empty dicts are left out."""
    pairs = ((f.name, getattr(options, f.name)) for f in dataclasses.fields(options))
    return {name: _plain(value) for name, value in pairs if value is not None and value != {}}


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_table(hint, value, where)  # type: ignore[arg-type]
    if dataclasses.is_dataclass(hint) and isinstance(value, hint):  # type: ignore[arg-type]
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(arguments[1], item, f"{where}, key '{key}'") for key, item in value.items()}
    if origin is tuple:
        values = [value] if isinstance(value, str | Path) else value  # a single mirror may be given without brackets
        if isinstance(values, list | tuple):
            return tuple(_convert(arguments[0], item, where) for item in values)
    elif origin is typing.Literal:
        if value in arguments:
            return value
        raise UserError(f"{where} is {value!r}, it must be one of {', '.join(map(repr, arguments))}")
    elif origin in (typing.Union, types.UnionType):
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    elif hint is float and type(value) is int:
        return float(value)
    elif hint is str and isinstance(value, Path):
        return str(value)
    elif type(value) is hint:
        return value
    kinds = {tuple: "a list", str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    raise UserError(f"{where} is {value!r}, it must be {kinds.get(origin or hint, 'a table')}")
