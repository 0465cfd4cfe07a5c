"""The JSON file of an evaluation: read and checked before its numbers are shown or compared."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.readers import require_json
from handtrain.data.image_folder import is_number, settings_fault
from handtrain.evaluation.table import LOWER_IS_BETTER

Record = dict[str, Any]

_SIDES = ("real", "fake", "base")


def read_evaluation(path: Path, name: str = "") -> Record:
    """Return the record of an evaluation. Raises `UserError`, with `name` before the path, if it is not one."""
    record: Record = require_json(path, name)
    fault = fault_of(record)
    if fault:
        label = f"{name} {path}" if name else str(path)
        raise UserError(f"{label} is not a file of `handtrain evaluate --json` ({fault}): write it again")
    return record


def fault_of(record: Any) -> str | None:
    """Return why a JSON value is not the record of an evaluation (docs/evaluation.md), None if it is one."""
    if not isinstance(record, dict):
        return "it is not a JSON object"
    if type(record.get("format", 0)) is not int:
        return "its format is not a number"
    if not isinstance(record.get("gesture"), str | None) or not isinstance(record.get("preparation"), str):
        return "its gesture or preparation is not a text"
    if not isinstance(record.get("options", {}), dict):
        return "its options are not an object"
    for side in _SIDES:
        if side in record and not _is_side(record[side]):
            return f"its description of the {side} images is not right"
    return _settings_fault(record.get("settings", {})) or _metrics_fault(record.get("metrics"), LOWER_IS_BETTER)


def _is_side(side: Any) -> bool:
    if not isinstance(side, dict) or not isinstance(side.get("excluded"), dict) or not _is_count(side.get("black")):
        return False
    lists = side["excluded"].values()
    names = all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)
    return names and all(isinstance(side.get(key, ""), str) for key in ("source", "sha256"))


def _settings_fault(settings: Any) -> str | None:
    if not isinstance(settings, dict):
        return "its settings are not an object"
    for side, of_side in settings.items():
        fault = settings_fault(of_side)
        if fault:
            return f"of the settings of the {side[:20]} images, {fault}"
    return None


def _metrics_fault(metrics: Any, names: Collection[str]) -> str | None:
    if not isinstance(metrics, dict):
        return "it has no metrics"
    for name, variants in metrics.items():
        if name not in names:
            return f"it has an unknown metric {name[:40]!r}"
        if not isinstance(variants, dict):
            return f"{name} has no variants"
        for entry in variants.values():
            if not _is_entry(entry):
                return f"the entry of {name} is not right"
    return None


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    if "not_computed" in entry:
        return isinstance(entry["not_computed"], str)
    counts = entry.get("n")
    whole = isinstance(entry.get("unit"), str) and isinstance(counts, dict) and all(map(_is_count, counts.values()))
    return whole and all(_is_estimate(entry.get(name)) for name in (*_SIDES, "difference"))


def _is_estimate(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not {"value", "low", "high"} <= value.keys():
        return False
    interval = (value["low"], value["high"])
    known = interval == (None, None) or all(map(is_number, interval))
    return known and is_number(value["value"]) and (value.get("bias") is None or is_number(value["bias"]))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10**15
