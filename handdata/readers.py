"""Reading files that may be damaged: text, JSON and Parquet, the user's and our own.

A derived file (one that a command can make again) which cannot be read counts as absent. A file of the user gets one
sentence that names it and the remedy.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handdata.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

Json = dict[str, Any]

_NOT_JSON = (ValueError, RecursionError)  # json raises both; UnicodeDecodeError is a ValueError


def read_text(path: Path, name: str = "") -> str:
    """Return a text file of the user: UTF-8, with or without a byte order mark.

    In messages `name`, such as the option, comes before the path. Raises `UserError` for a missing file, a folder, and
    any other encoding.
    """
    return _decoded(_bytes_of(path, name), path, name)


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, which end as on Unix, Windows or an old Mac: U+2028 and the like are characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def require_json(path: Path, name: str = "", kind: type = dict) -> Any:
    """Return the content of a JSON file of the user, or of one that no command can make again.

    Raises `UserError` if it is missing, not UTF-8, not JSON or not a `kind`.
    """
    text = _decoded(_bytes_of(path, name), path, name)
    try:
        value = json.loads(text)
    except _NOT_JSON as error:
        raise UserError(
            f"{_label(path, name)} is not JSON ({first_line(error)[:200]}): correct or replace it"
        ) from None
    if not isinstance(value, kind):
        raise UserError(f"{_label(path, name)} holds no JSON {_JSON_NAMES[kind]}: correct or replace it")
    return value


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the content of a derived JSON file; None if it is missing, cannot be read, or is not a `kind`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, *_NOT_JSON):
        return None
    return value if isinstance(value, kind) else None


def read_jsonl(path: Path, kind: type = dict) -> list[Any]:
    """Return the values of a derived file with one JSON value per line, an empty list if it is missing.

    Lines that cannot be read, or are not a `kind`, are left out.
    """
    values = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    for line in lines:
        try:
            value = json.loads(line.decode("utf-8")) if line.strip() else None
        except _NOT_JSON:
            continue
        if isinstance(value, kind):
            values.append(value)
    return values


def read_table(
    path: Path, schema: "pa.Schema | None" = None, columns: Sequence[str] | None = None
) -> "pa.Table | None":
    """Return a derived Parquet file; None if it is missing, cannot be read, fails a page's checksum or lacks columns.

    With a schema, a file whose columns have other names or types counts as unreadable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    if schema is not None and not table.schema.equals(schema, check_metadata=False):
        return None
    return table if columns is None or table.column_names == list(columns) else None


def read_secret(variable: str) -> str:
    """Return the key in an environment variable, empty if it is not set.

    Raises `UserError`, which does not contain the key, as `check_secret` does.
    """
    return check_secret(os.environ.get(variable, ""), f"the key in ${variable}")


def check_secret(secret: str, name: str) -> str:
    """Return a key or token without the white space around it.

    Raises `UserError`, which does not contain it, for one that no header of a request can hold.
    """
    secret = secret.strip()
    if not all("!" <= character <= "~" for character in secret):
        raise UserError(f"{name} has a space, a line break or a letter outside ASCII in it: copy it again")
    return secret


_JSON_NAMES: dict[type, str] = {dict: "object", list: "list", str: "string"}


def _bytes_of(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{_label(path, name)} does not exist: correct the path") from None
    except IsADirectoryError:
        raise UserError(f"{_label(path, name)} is a folder: name a file") from None
    except OSError as error:
        raise UserError(f"{_label(path, name)} cannot be read ({error.strerror or error}): replace it") from None


def _decoded(data: bytes, path: Path, name: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # also UTF-16 without a byte order mark
        raise UserError(f"{_label(path, name)} is not UTF-8 text: save it as UTF-8")
    return text


def _label(path: Path, name: str) -> str:
    return f"{name} {path}" if name else str(path)
