"""The report of a judgement as one HTML page that refers to no other file."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from handdata.vision.pixels import UnreadableImage, open_image, upright
from handtrain.evaluation.hands import standard_crops
from handtrain.judging.chart import chart
from handtrain.judging.judgement import BLIND, Judgement, counts
from handtrain.judging.measures import Entry, Measure
from handtrain.judging.rows import JudgedHand, JudgedImage
from handtrain.reporting.pictures import data_url

_SIDE = 160  # px of a crop on the page
_QUALITY = 80  # JPEG

Shown = tuple[JudgedImage, JudgedHand]


def page(judgement: Judgement, crops: int) -> str:
    """Return the page; of every folder it shows `crops` worst hands, best hands and images without a hand."""
    count, images = len(judgement.folders), sum(entry["images"] for entry in judgement.summaries)
    title = f"Hands in {images:,} images of {count} folder{'s' if count > 1 else ''}"
    parts = [f"<h1>{html.escape(title)}</h1>", *_remarks(judgement), _ranking(judgement)]
    parts.append(f"<div class=chart>{chart(judgement.summaries, judgement.chosen())}</div>")
    if judgement.pairs:
        parts += ["<h2>Folders compared</h2>", _pairs(judgement)]
    for entry in judgement.summaries:
        parts += _folder(judgement, entry, crops)
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), body="\n".join(parts))


def _remarks(judgement: Judgement) -> Iterator[str]:
    first = judgement.chosen()[0]
    direction = "lower" if first.lower_is_better else "higher"
    yield _note(
        f"The best folder is the first, by {first.name} ({direction} is better). Intervals are 95 %, from images drawn "
        "with replacement." + (" An image without a found hand has p_wrong 1." if judgement.method else "")
    )
    yield f"<p class=warning>{html.escape(judgement.about_anatomy())}</p>"
    yield f"<p class=warning>{html.escape(BLIND)}</p>"


def _ranking(judgement: Judgement) -> str:
    measures = judgement.chosen()
    head = ["", "folder", *(f"{each.name}{_arrow(each)}" for each in measures), "images", "hands"]
    rows = []
    for rank, entry in enumerate(judgement.summaries, 1):
        cells = [f"<td>{rank}</td><td class=name>{html.escape(entry['folder'])}</td>"]
        cells += [f"<td>{_cell(entry['measures'][each.name])}</td>" for each in measures]
        rows.append(f"{''.join(cells)}<td>{entry['images']:,}</td><td>{entry['hands']:,}</td>")
    return _table(head, rows)


def _pairs(judgement: Judgement) -> str:
    measures = judgement.chosen()
    head = ["second minus first, on images of the same names", *(f"{each.name}{_arrow(each)}" for each in measures)]
    rows = []
    for pair in judgement.pairs:
        names = f"{html.escape(pair['second'])} <small>minus {html.escape(pair['first'])}</small>"
        cells = [f"<td class=name>{names}</td>"]
        for each in measures:
            entry = pair["measures"][each.name]
            cells.append(f"<td class='{_mark(entry, each)}'>{_cell(entry, '+.3f')}</td>")
        rows.append(f"{''.join(cells)}<td>{pair['images']:,}</td>")
    return _table([*head, "images"], rows)


def _folder(judgement: Judgement, entry: Entry, crops: int) -> Iterator[str]:
    images = judgement.of(entry["folder"])
    files = {picture.name: picture.path for each in judgement.folders if each.name == entry["folder"]
             for picture in each.pictures}  # fmt: skip
    yield f"<h2>{html.escape(entry['folder'])}</h2>"
    yield from (_note(sentence) for sentence in counts(entry))
    hands = [(image, hand) for image in images for hand in image.hands]
    hands.sort(key=_wrongness, reverse=True)
    half = -(-len(hands) // 2)
    by = "p_wrong" if judgement.method else "the score of HAND-CONF, which is blind to wrong anatomy"
    for name, chosen in (("worst", hands[: min(crops, half)]), ("best", hands[half:][::-1][:crops])):
        if chosen:
            yield f"<h3>{name.title()} hands by {by}</h3>"
            yield f"<div class='hands {name}'>{''.join(_figure(files, *each) for each in chosen)}</div>"
    without = [image for image in images if image.fault is None and not image.hands][:crops]
    if without:
        yield "<h3>Images without a found hand</h3>"
        yield f"<div class=hands>{''.join(_figure(files, image, None) for image in without)}</div>"


def _wrongness(shown: Shown) -> tuple[float, float]:
    hand = shown[1]
    return hand.p_wrong or 0.0, -hand.hand.score


def _figure(files: dict[str, Path], image: JudgedImage, hand: JudgedHand | None) -> str:
    try:
        with open_image(files[image.name]) as opened:
            pixels = upright(opened)
    except (UnreadableImage, OSError):
        return ""  # the file was changed or removed since it was judged
    if hand is not None:
        pixels = Image.fromarray(standard_crops(np.asarray(pixels), [hand.hand])[0])
    pixels.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    bold = "" if hand is None else _caption(hand)
    small = "".join(f"<small>{html.escape(text)}</small>" for text in (image.name, image.prompt) if text)
    source = data_url(pixels, _QUALITY)
    return f"<figure><img src='{source}' alt=''><figcaption>{bold}{small}</figcaption></figure>"


def _caption(hand: JudgedHand) -> str:
    value = f"score {hand.hand.score:.2f}" if hand.p_wrong is None else f"{hand.p_wrong:.2f}"
    words = [hand.gesture, hand.flaw or "", "" if hand.fingers is None else f"{hand.fingers} fingers"]
    words += [f"{name} {score:.2f}" for name, score in hand.others.items() if score is not None]
    return f"<b>{value}</b> {html.escape(', '.join(filter(None, words)))}"


def _cell(entry: Entry, spec: str = ".3f") -> str:
    if entry["value"] is None:
        return "-"
    interval = f"<small>{entry['low']:{spec}} to {entry['high']:{spec}}</small>" if entry["low"] is not None else ""
    return f"{entry['value']:{spec}}{interval}"


def _arrow(measure: Measure) -> str:
    return {None: "", True: " ↓", False: " ↑"}[measure.lower_is_better]


def _mark(entry: Entry, measure: Measure) -> str:
    """Return better or worse where the interval of a difference excludes 0."""
    if measure.lower_is_better is None or entry["low"] is None or entry["low"] <= 0 <= entry["high"]:
        return ""
    return "better" if (entry["value"] < 0) == measure.lower_is_better else "worse"


def _note(text: str) -> str:
    return f"<p class=note>{html.escape(text)}</p>"


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    columns = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<div class=table><table><tr>{columns}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"
