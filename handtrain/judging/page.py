"""The report of a judgement as one HTML page that refers to no other file, and its table as plain text."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from handdata.vision.pixels import UnreadableImage, open_image, upright
from handtrain.evaluation.hands import standard_crops
from handtrain.judging.chart import chart
from handtrain.judging.measures import MEASURES, Entry, Measure
from handtrain.judging.rows import JudgedHand, JudgedImage
from handtrain.reporting.pictures import data_url

if TYPE_CHECKING:
    from handtrain.judging.judge import Judgement

BLIND = (
    "HAND-CONF, the confidence that other work reports, does not see wrong anatomy: on 100 drawn malformed palms and "
    "on 100 well-formed ones it was 0.926 both times. It ignores images without a found hand."
)

_SIDE = 160  # px of a crop on the page
_QUALITY = 80  # JPEG
_NAMES = 10  # unreadable images that are listed by name

Shown = tuple[JudgedImage, JudgedHand]


def page(judgement: "Judgement", crops: int) -> str:
    """Return the page; of every folder it shows `crops` worst hands, best hands and images without a hand."""
    count, images = len(judgement.folders), sum(entry["images"] for entry in judgement.summaries)
    title = f"Hands in {images:,} images of {count} folder{'s' if count > 1 else ''}"
    parts = [f"<h1>{html.escape(title)}</h1>", *_remarks(judgement), _ranking(judgement)]
    parts.append(f"<div class=chart>{chart(judgement.summaries)}</div>")
    if judgement.pairs:
        parts += ["<h2>Folders compared</h2>", _pairs(judgement)]
    for entry in judgement.summaries:
        parts += _folder(judgement, entry, crops)
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), body="\n".join(parts))


def plain_table(judgement: "Judgement") -> str:
    """Return the ranked folders with their measures, and what a reader must know, as plain text."""
    measures = _measures(judgement)
    lines = ["".join(f"{each.name:>30}" for each in measures) + "   images, hands  folder"]
    for entry in judgement.summaries:
        cells = "".join(f"{_estimate(entry['measures'][each.name]):>30}" for each in measures)
        lines.append(f"{cells}   {entry['images']:,}, {entry['hands']:,}  {entry['folder']}")
    for entry in judgement.summaries:
        lines += [f"{entry['folder']}: {sentence}" for sentence in _counts(entry)]
    return "\n".join([*lines, _about_anatomy(judgement), BLIND])


def _remarks(judgement: "Judgement") -> Iterator[str]:
    first = _measures(judgement)[0]
    direction = "lower" if first.lower_is_better else "higher"
    yield _note(
        f"The best folder is the first, by {first.name} ({direction} is better). Intervals are 95 %, from images drawn "
        "with replacement. An image without a found hand has p_wrong 1."
    )
    yield f"<p class=warning>{html.escape(_about_anatomy(judgement))}</p>"
    yield f"<p class=warning>{html.escape(BLIND)}</p>"


def _about_anatomy(judgement: "Judgement") -> str:
    if judgement.method is None:
        return "p_wrong: not computed: the judge of anatomy was turned off."
    return f"p_wrong ({judgement.method.status}): {judgement.method.caveat}"


def _measures(judgement: "Judgement") -> list[Measure]:
    return [each for each in MEASURES if judgement.method is not None or not each.anatomy]


def _ranking(judgement: "Judgement") -> str:
    measures = _measures(judgement)
    head = ["", "folder", *(f"{each.name}{_arrow(each)}" for each in measures), "images", "hands"]
    rows = []
    for rank, entry in enumerate(judgement.summaries, 1):
        cells = [f"<td>{rank}</td><td class=name>{html.escape(entry['folder'])}</td>"]
        cells += [f"<td>{_cell(entry['measures'][each.name])}</td>" for each in measures]
        rows.append(f"{''.join(cells)}<td>{entry['images']:,}</td><td>{entry['hands']:,}</td>")
    return _table(head, rows)


def _pairs(judgement: "Judgement") -> str:
    measures = _measures(judgement)
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


def _folder(judgement: "Judgement", entry: Entry, crops: int) -> Iterator[str]:
    images = judgement.of(entry["folder"])
    files = {picture.name: picture.path for each in judgement.folders if each.name == entry["folder"]
             for picture in each.pictures}  # fmt: skip
    yield f"<h2>{html.escape(entry['folder'])}</h2>"
    yield from (_note(sentence) for sentence in _counts(entry))
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


def _counts(entry: Entry) -> Iterator[str]:
    """Yield sentences on the images of a folder that a reader must know."""
    yield (
        f"{entry['images']:,} images, {entry['without_hand']:,} without a found hand; {entry['hands']:,} hands. "
        f"{entry['black']:,} images are black, {entry['one_colour']:,} have another single colour."
    )
    if entry["unreadable"]:
        faults = [f"{name} ({fault})" for name, fault in entry["unreadable"].items()]
        more = f" and {len(faults) - _NAMES:,} more" if len(faults) > _NAMES else ""
        yield f"{len(faults):,} images cannot be read and are left out: {', '.join(faults[:_NAMES])}{more}."
    if entry["other_files"]:
        yield f"{entry['other_files']:,} other files are not images by their names."
    if entry["gestures"]:
        yield "Gestures: " + ", ".join(f"{name} {count:,}" for name, count in entry["gestures"].items()) + "."
    yield from entry["notes"]


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
    return f"<b>{value}</b> {html.escape(', '.join(filter(None, words)))}"


def _cell(entry: Entry, spec: str = ".3f") -> str:
    if entry["value"] is None:
        return "-"
    interval = f"<small>{entry['low']:{spec}} to {entry['high']:{spec}}</small>" if entry["low"] is not None else ""
    return f"{entry['value']:{spec}}{interval}"


def _estimate(entry: Entry) -> str:
    if entry["value"] is None:
        return "-"
    return f"{entry['value']:.3f}" + (f" [{entry['low']:.3f}, {entry['high']:.3f}]" if entry["low"] is not None else "")


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
