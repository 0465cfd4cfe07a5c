"""The measures of ranked folders as one SVG: a panel per measure, a dot with its interval per folder."""

import html
from collections.abc import Sequence

import numpy as np

from handtrain.judging.measures import Entry, Measure

_WIDTH, _NAMES, _ROW, _TOP, _BOTTOM = 1150, 170, 22, 30, 22  # px
_GAP = 26  # px between panels
_LETTERS = 24  # of a folder's name, from its end


def chart(summaries: Sequence[Entry], measures: Sequence[Measure]) -> str:
    """Return the chart of the summaries, the first at the top; empty without any value."""
    panels = [each for each in measures if any(_value(entry, each.name) is not None for entry in summaries)]
    if not panels:
        return ""
    height = _TOP + _ROW * len(summaries) + _BOTTOM
    across = (_WIDTH - _NAMES) / len(panels)
    parts = [_name(entry["folder"], _row(number)) for number, entry in enumerate(summaries)]
    for number, each in enumerate(panels):
        arrow = {None: "", True: " ↓", False: " ↑"}[each.lower_is_better]
        left, right = _NAMES + number * across + _GAP / 2, _NAMES + (number + 1) * across - _GAP / 2
        parts.append(f"<text x='{left:.0f}' y='14' font-weight='600'>{html.escape(each.name)}{arrow}</text>")
        parts += _panel([entry["measures"].get(each.name) for entry in summaries], left, right)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' role='img' "
        f"font-family='system-ui, sans-serif' font-size='12' fill='#1c2026'>{''.join(parts)}</svg>"
    )


def _panel(entries: Sequence[Entry | None], left: float, right: float) -> list[str]:
    """Return the dots and intervals of one measure, on its own scale, between two places in px."""
    known = [entry for entry in entries if entry and entry["value"] is not None]
    values = [entry[name] for entry in known for name in ("value", "low", "high") if entry[name] is not None]
    low, high = _scale(min(values), max(values))

    def place(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    bottom = _TOP + _ROW * len(entries)
    parts = []
    for tick in (low, (low + high) / 2, high):
        x, style = f"{place(tick):.1f}", "text-anchor='middle' fill='#5b6472' font-size='10'"
        parts.append(f"<line x1='{x}' x2='{x}' y1='{_TOP - 6}' y2='{bottom}' stroke='#d9dce1'/>")
        parts.append(f"<text x='{x}' y='{bottom + 14}' {style}>{tick:.3g}</text>")
    for number, entry in enumerate(entries):
        if entry and entry["value"] is not None:
            y = _row(number) - 4
            if entry["low"] is not None:
                ends = f"x1='{place(entry['low']):.1f}' x2='{place(entry['high']):.1f}'"
                parts.append(f"<line {ends} y1='{y}' y2='{y}' stroke='#1f5fa8' stroke-width='3' stroke-opacity='.4'/>")
            parts.append(f"<circle cx='{place(entry['value']):.1f}' cy='{y}' r='4' fill='#1f5fa8'/>")
    return parts


def _scale(low: float, high: float) -> tuple[float, float]:
    """Return round ends of an axis around two values."""
    step = 10.0 ** np.floor(np.log10(max(high - low, 0.1)))
    first, last = np.floor(low / step) * step, np.ceil(high / step) * step
    return float(first if first < last else first - step), float(last)


def _name(folder: str, y: int) -> str:
    short = folder if len(folder) <= _LETTERS else f"…{folder[-_LETTERS + 1 :]}"
    return f"<text x='0' y='{y}'>{html.escape(short)}</text>"


def _row(number: int) -> int:
    return _TOP + _ROW * number + 14


def _value(entry: Entry, name: str) -> float | None:
    value: float | None = entry["measures"].get(name, {}).get("value")
    return value
