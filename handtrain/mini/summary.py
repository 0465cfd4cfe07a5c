"""The table at the end of the quickstart, from a run's evaluation.json and colours.json.

`python -m handtrain.mini.summary RUN` prints it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from handdata.errors import UserError
from handtrain.mini import run_command

METRICS = ("gesture accuracy", "hand-found rate", "landmark distance", "HAND-CONF")
_FREE = {"gesture without request": "without request"}  # of images whose prompts name no gesture, if there are any
_NO_SHARES = ("landmark distance", "HAND-CONF")


def lines(evaluation: dict[str, Any], colours: dict[str, Any]) -> Iterator[str]:
    """Yield the table's lines: base, tuned, real, and the paired difference tuned - base with its interval."""
    yield f"{'':20} {'base':>9} {'tuned':>9} {'real':>9}   difference (95 %)"
    for name in (*METRICS, *(name for name in _FREE if name in evaluation["metrics"])):
        entry, label = evaluation["metrics"][name]["standard"], _FREE.get(name, name)
        if "not_computed" in entry:
            yield f"{label:20} not computed: {entry['not_computed']}"
        else:
            sides = [entry[side]["value"] if entry.get(side) else None for side in ("base", "fake", "real")]
            yield _line(label, sides, entry.get("difference"), share=name not in _NO_SHARES)
    for name, shares in colours.items():
        sides = [*(right["value"] for key, right in shares.items() if key != "difference"), None]
        yield _line(f"{name} correct", sides, shares.get("difference"), share=True)


def _line(name: str, sides: list[float | None], difference: dict[str, float | None] | None, share: bool) -> str:
    scale, places, unit = (100.0, 1, " %") if share else (1.0, 3, "")
    cells = ["-" if side is None else f"{scale * side:.{places}f}{unit}" for side in sides]
    shown = " ".join(cell.rjust(9) for cell in cells)
    change = {key: f"{scale * value:+.{places}f}" for key, value in (difference or {}).items() if value is not None}
    interval = f" ({change['low']} to {change['high']})" if "low" in change else ""  # absent for too few hands
    return f"{name:20} {shown}   {change.get('value', '')}{interval}".rstrip()


def main(run: Annotated[Path, tyro.conf.Positional]) -> int:
    """Print the table; return the exit code."""
    names = ("evaluation", "colours")
    try:
        evaluation, colours = (json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in names)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing: `handtrain evaluate` and `python -m handtrain.mini.colours` write both files"
        ) from None
    print("\n".join(lines(evaluation, colours)))
    return 0


if __name__ == "__main__":
    run_command("handtrain.mini.summary", lambda: tyro.cli(main))
