"""Tables in Markdown."""

import html
from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in GitHub's Markdown. Cells are plain text: markup characters of HTML and `|` are escaped."""
    lines = ["| " + " | ".join(map(escaped, head)) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(escaped(str(cell)) for cell in row) + " |" for row in rows)])


def escaped(text: str) -> str:
    """Return a text with the characters escaped that have a meaning in a cell."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
