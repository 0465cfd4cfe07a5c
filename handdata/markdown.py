"""Tables in Markdown."""

import html
from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in GitHub's Markdown whose cells are shown literally: HTML markup and `|` are escaped.

    Integers get thousands separators; a column of numbers alone is right-aligned.
    """
    cells = [list(row) for row in rows]
    numeric = [all(type(cell) in (int, float) for cell in column) for column in zip(*cells, strict=True)]
    rule = "".join("---:|" if right else "---|" for right in numeric or [False] * len(head))
    lines = ["| " + " | ".join(map(escaped, row)) + " |" for row in [head, *cells]]
    return "\n".join([lines[0], "|" + rule, *lines[1:]])


def escaped(cell: object) -> str:
    """Return a cell's text, escaped so that GitHub shows it literally."""
    text = f"{cell:,}" if type(cell) is int else str(cell)
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
