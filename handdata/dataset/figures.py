"""The pictures of the card: a contact sheet and the statistics by gesture."""

from pathlib import Path
from typing import Any

import numpy as np

_CELL, _GAP, _LABEL = 176, 6, 150  # pixels
_INK, _PAPER, _BLUE = "#222222", "#ffffff", "#3b6ea5"

Sheet = list[tuple[str, list[bytes]]]  # label of a line and its JPEGs


def contact_sheet(lines: Sheet, path: Path, columns: int = 6) -> None:
    """Write a JPEG with one line of pictures per label, each scaled to fit its cell."""
    from PIL import Image, ImageDraw, ImageFont

    from handdata.vision.pixels import open_image, to_rgb

    size = (_LABEL + columns * (_CELL + _GAP) + _GAP, len(lines) * (_CELL + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(19)
    for line, (label, pictures) in enumerate(lines):
        top = _GAP + line * (_CELL + _GAP)
        draw.text((_GAP * 2, top + _CELL // 2), label.replace("_", "\n"), _INK, font, anchor="lm")
        for column, data in enumerate(pictures[:columns]):
            with open_image(data) as picture:
                picture.draft("RGB", (2 * _CELL, 2 * _CELL))
                small = _fit(to_rgb(picture))
            left = _LABEL + _GAP + column * (_CELL + _GAP)
            sheet.paste(small, (left + (_CELL - small.width) // 2, top + (_CELL - small.height) // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "JPEG", quality=85)


def statistics(values: dict[str, dict[str, list[float]]], limits: dict[str, float], path: Path) -> None:
    """Write a PNG with one panel per measure, each with one box per gesture: quartiles, and whiskers at 5 and 95 %.

    `values`: by measure and gesture, one number per row. `limits`: greatest possible value of the measures that have
    one; every axis begins at 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gestures = list(next(iter(values.values())))
    width, height = 4.2 * len(values), 1.0 + 0.34 * len(gestures)  # inches
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    names = 0.3 + 0.085 * max(map(len, gestures))
    figure.subplots_adjust(names / width, 0.45 / height, 1 - 0.2 / width, 1 - 0.4 / height, wspace=0.08)
    for index, (measure, groups) in enumerate(values.items()):
        axes = figure.add_subplot(1, len(values), index + 1)
        _boxes(axes, [groups[gesture] for gesture in gestures])
        axes.set_yticks(range(1, len(gestures) + 1), gestures if index == 0 else [""] * len(gestures))
        axes.set_xlim(0, limits.get(measure))
        axes.set_title(measure, fontsize=10, loc="left", color=_INK)
        axes.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # without it the file holds the library's version


def _boxes(axes: Any, groups: list[list[float]]) -> None:
    line = {"color": _BLUE, "linewidth": 1.2}
    shown = [np.asarray(group) if group else np.array([np.nan]) for group in groups]
    axes.boxplot(
        shown, orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.55, patch_artist=True,
        boxprops={"facecolor": "#cfe0f0", **line}, medianprops={"color": _INK, "linewidth": 1.6},
        whiskerprops=line, capprops=line,
    )  # fmt: skip
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _fit(picture: Any) -> Any:
    scale = _CELL / max(picture.size)
    return picture.resize([max(1, round(side * scale)) for side in picture.size])
