"""JSON objects that contain a hash of themselves, so that a changed number in a valid file is noticed."""

import hashlib
import json
from typing import Any

SEAL = "sha256_of_this"


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with a hash of all its other entries, which replaces an earlier one."""
    others = {name: value for name, value in content.items() if name != SEAL}
    return {**others, SEAL: digest(others)}


def intact(content: dict[str, Any]) -> bool:
    """Return whether an object has the hash of its other entries; also true for one without a hash."""
    try:
        return SEAL not in content or content[SEAL] == sealed(content)[SEAL]
    except (ValueError, RecursionError):  # numbers and nesting beyond what json writes
        return False


def digest(value: Any) -> str:
    """Return a hash of a JSON value; the order of an object's keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
