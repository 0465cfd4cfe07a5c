"""Ways in which files are damaged: by crashes, by other programs, and by hand."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

JSON_ODD: list[Any] = [
    None, [], {}, "", "x", -1, 0, 1e308, True, [[]], ["x", 1, None], {"x": 1}, 2**70, "\ud800", "\u2028",
]  # fmt: skip
JSON_WHOLE = [
    "[]", "{}", "null", "1", '"x"', "[" * 3000 + "]" * 3000, '{"a": ' * 3000, "NaN", "[1, 2]\n[3]", "1" * 5000,
]  # fmt: skip
TOML_ODD = [
    "-1", '"x"', "[]", "{}", "nan", "1e400", "true", '["x", 1]', "9" * 30, "1979-05-27", '""', "[[1]]", '"\\u0000"',
]  # fmt: skip
BYTES_FLIPPED = 8


def empty(path: Path, chance: random.Random) -> None:
    """Leave a file without content, as a full disk does."""
    path.write_bytes(b"")


def half(path: Path, chance: random.Random) -> None:
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: chance.choice([len(data) // 2, chance.randrange(len(data) or 1), max(0, len(data) - 1)])])


def flipped(path: Path, chance: random.Random) -> None:
    """Change some bytes anywhere."""
    data = bytearray(path.read_bytes())
    for _ in range(BYTES_FLIPPED if data else 0):
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    path.write_bytes(data)


def zeros(path: Path, chance: random.Random) -> None:
    """Replace a part of a file by zeros, as a power failure does."""
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data) or 1)
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)


def encoded(path: Path, chance: random.Random) -> None:
    """Save a file in another encoding, as an editor does; a file that is not text gets other bytes in front."""
    data, kind = path.read_bytes(), chance.choice(["utf-16", "utf-8-sig", "latin-1", "utf-32"])
    try:
        text = data.decode("utf-8")
        path.write_bytes((text.replace('"', '"\u00e9', 1) if kind == "latin-1" else text).encode(kind, "replace"))
    except UnicodeDecodeError:
        path.write_bytes(b"\xff\xfe" + data)


def other_json(path: Path, chance: random.Random) -> None:
    """Replace the content by another JSON value."""
    path.write_text(chance.choice(JSON_WHOLE), encoding="utf-8")


def types(path: Path, chance: random.Random) -> None:
    """Give one value of a structured file another type; other files get their bytes in reverse."""
    change = {".json": _json, ".jsonl": _json_line, ".parquet": _parquet, ".toml": _toml}.get(path.suffix, _reversed)
    change(path, chance)


def missing(path: Path, chance: random.Random) -> None:
    """Remove a file."""
    path.unlink()


def folder(path: Path, chance: random.Random) -> None:
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()
    if chance.random() < 0.5:
        (path / "x").write_text("x")


def swapped(path: Path, chance: random.Random) -> None:
    """Replace a file by another one of the same kind and folder, as a wrong copy does."""
    others = [other for other in sorted(path.parent.iterdir()) if other.suffix == path.suffix and other != path]
    others = [other for other in others if other.is_file()]
    if others:
        shutil.copyfile(chance.choice(others), path)
    else:
        path.write_bytes(path.read_bytes() * 2)


def none(path: Path, chance: random.Random) -> None:
    """Leave a file as it is: the control, whose result has to be equal."""


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    damage.__name__: damage
    for damage in (empty, half, flipped, zeros, encoded, other_json, types, missing, folder, swapped, none)
}


def _json(path: Path, chance: random.Random) -> None:
    path.write_text(json.dumps(_changed(json.loads(path.read_text(encoding="utf-8")), chance)), encoding="utf-8")


def _json_line(path: Path, chance: random.Random) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines:
        place = chance.randrange(len(lines))
        lines[place] = json.dumps(_changed(json.loads(lines[place]), chance))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _changed(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with one part, at any depth, replaced or removed."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        if chance.random() < 0.15:
            return {other: part for other, part in value.items() if other != key}
        return {**value, key: _changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], _changed(value[place], chance), *value[place + 1 :]]
    return chance.choice([odd for odd in JSON_ODD if type(odd) is not type(value) or odd != value])


def _toml(path: Path, chance: random.Random) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    keys = [place for place, line in enumerate(lines) if " = " in line]
    place = chance.choice(keys)
    lines[place] = f"{lines[place].partition(' = ')[0]} = {chance.choice(TOML_ODD)}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parquet(path: Path, chance: random.Random) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    place = chance.randrange(table.num_columns)
    kind = chance.choice(["drop", "null", "string", "number", "rows", "order", "metadata"])
    name = table.column_names[place]
    if kind == "drop":
        table = table.drop_columns([name])
    elif kind in ("null", "string", "number"):
        types = {"null": pa.null(), "string": pa.string(), "number": pa.float64()}
        values = {"null": None, "string": "x", "number": 0.5}[kind]
        table = table.set_column(place, name, pa.array([values] * table.num_rows, types[kind]))
    elif kind == "rows":
        table = table.slice(0, chance.randrange(table.num_rows or 1))
    elif kind == "order":
        table = table.take(pa.array(chance.sample(range(table.num_rows), table.num_rows)))
    else:
        table = table.replace_schema_metadata({b"hand1000:sources": b"[]", b"huggingface": b"{"})
    pq.write_table(table, path)


def _reversed(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[::-1])
