"""A page that asks people about hands, and the agreement of their answers with each other and with `p_wrong`.

The page is one HTML file that opens from disk. It shows neither the folder of a hand nor its score, so that people do
not know which model drew it. Answers return as a JSON file per person.
"""

import base64
import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handdata.errors import UserError
from handdata.files import require_writable_folder, write_text
from handdata.readers import read_text, require_json
from handdata.shipped import filled_page
from handdata.vision.pixels import UnreadableImage, open_image, upright
from handtrain.evaluation import bootstrap
from handtrain.evaluation.bootstrap import MEAN_DRAWS
from handtrain.raters.agreement import alpha_draws, auc_draws

FORMAT = 1  # of the file of answers
MARGIN = 0.25  # of the longer side of a hand's box, on each side of the crop
LONGEST = 512  # pixels of a crop on the page
THRESHOLD = 0.5  # p_wrong above which the metric calls a hand wrong

_TEMPLATE = Path(__file__).with_name("people.html")
_COLUMNS = ("folder", "image", "hand", "left", "top", "right", "bottom", "p_wrong")
_ANSWERS = {"right": False, "wrong": True}

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Hand:
    """A hand on the page."""

    path: Path  # of the image
    box: Box  # left, top, right, bottom in pixels
    p_wrong: float | None  # probability by the metric that the anatomy is wrong
    id: str  # on the page and in the answers; it does not reveal the folder


@dataclass(frozen=True)
class Answers:
    """The answers of one person."""

    rater: str
    wrong: dict[str, bool]  # by the hand's id; a skipped hand is absent


def hands_from_csv(path: Path | str) -> list[Hand]:
    """Return the hands in a file of `handtrain judge --csv`, in its order; rows without a hand are left out.

    A folder that is not absolute is relative to the working directory. Raises `UserError` for any other file.
    """
    path = Path(path)
    reader = csv.DictReader(io.StringIO(read_text(path)))
    hands: dict[str, Hand] = {}
    try:
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path} lacks the column {missing[0]}: name a file of `handtrain judge --csv`")
        for row in reader:
            if not row["hand"]:
                continue
            hand = _hand(row, f"{path}, line {reader.line_num}")
            if hand.id in hands:
                raise UserError(f"{path}, line {reader.line_num} has the same hand as an earlier line: remove one")
            hands[hand.id] = hand
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is not CSV ({error}): write the file again") from None
    return list(hands.values())


def ask(hands: Sequence[Hand], n: int, seed: int, out_html: Path | str) -> Path:
    """Write a page that shows `n` of the hands in random order and asks whether each is right; return its path.

    Raises `UserError` for more hands than there are, and for an image that is missing or cannot be decoded.
    """
    out = Path(out_html)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out} must end in .html: the page is one HTML file")
    if not 1 <= n <= len(hands):
        raise UserError(f"--ask {n} is not possible: there are {len(hands)} hands to ask about")
    require_writable_folder(out.parent, "the folder of the page")
    by_id = sorted(hands, key=lambda hand: hand.id)
    chosen = [by_id[index] for index in np.random.default_rng(seed).permutation(len(by_id))[:n]]
    write_text(out, page([(hand.id, crop) for hand, crop in zip(chosen, _crops(chosen), strict=True)]))
    return out


def page(crops: Sequence[tuple[str, Image.Image]]) -> str:
    """Return the page that asks about these crops by id, in their order, as HTML."""
    name = hashlib.sha256("\n".join(hand for hand, _ in crops).encode()).hexdigest()[:16]
    shown = [{"id": hand, "image": _data_url(crop)} for hand, crop in crops]
    return filled_page(_TEMPLATE, "HANDS-AS-JSON", {"format": FORMAT, "page": name, "hands": shown})


def crop(image: Image.Image, box: Box) -> Image.Image:
    """Return the square around a box with a margin, clipped to the image, at most 512 px on its longer side."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top, 1) * (0.5 + MARGIN)
    x, y = (left + right) / 2, (top + bottom) / 2
    left, top = (min(max(0, round(middle - half)), side - 1) for middle, side in zip((x, y), image.size, strict=True))
    right, bottom = (min(side, max(1, round(middle + half))) for middle, side in zip((x, y), image.size, strict=True))
    part = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    part.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return part


def read_answers(path: Path | str) -> Answers:
    """Return the answers in a file that the page exported. Raises `UserError` for any other file."""
    record = require_json(Path(path), "--answers")
    answers, rater = record.get("answers"), record.get("rater")
    whole = record.get("format") == FORMAT and isinstance(rater, str) and isinstance(answers, dict)
    if not whole or not all(isinstance(answer, str) and answer in _ANSWERS for answer in answers.values()):
        raise UserError(f"--answers {path} is not a file that the page of --ask exported: export it again")
    return Answers(rater.strip() or Path(path).stem, {hand: _ANSWERS[answer] for hand, answer in answers.items()})


def agreement(answer_files: Sequence[Path | str], hands: Sequence[Hand]) -> dict[str, Any]:
    """Return how far people agree with each other and with the metric; docs/judge_people.md describes the keys.

    Intervals are 95 %, by a bootstrap over images with all their hands. The label of a hand is the answer of most
    people; a tie has none. Raises `UserError` for files without answers about these hands and for a person who is in
    two files.
    """
    people = [read_answers(path) for path in answer_files]
    if not people:
        raise UserError("--answers needs a file that the page of --ask exported")
    for place, person in enumerate(people):
        for other, earlier in zip(answer_files, people[:place], strict=False):
            if earlier.rater == person.rater:
                raise UserError(
                    f"--answers {other} and {answer_files[place]} are both by {person.rater!r}: leave out one of them"
                )
    known = {hand.id for hand in hands}
    given = {hand for person in people for hand in person.wrong}
    judged = [hand for hand in hands if hand.id in given]
    if not judged:
        raise UserError(f"--answers {answer_files[0]} has no answer about these hands: name the CSV of its page")
    votes = [[person.wrong[hand.id] for person in people if hand.id in person.wrong] for hand in judged]
    counts = np.array([[of_hand.count(False), of_hand.count(True)] for of_hand in votes])  # (n, 2): right, wrong
    images = {path: number for number, path in enumerate(dict.fromkeys(hand.path for hand in judged))}
    weights = bootstrap.draws(len(images), MEAN_DRAWS, 0)[:, [images[hand.path] for hand in judged]]
    return {
        "raters": [{"name": p.rater, "answers": len(p.wrong), "wrong": sum(p.wrong.values())} for p in people],
        "hands": len(judged),
        "hands_with_two_answers": int((counts.sum(axis=1) > 1).sum()),
        "not_among_the_hands": len(given - known),
        "alpha": _alpha(counts, weights),
        "metric": _metric(judged, counts, weights),
    }


def describe(result: dict[str, Any]) -> str:
    """Return the result of `agreement` as lines to print."""
    people = ", ".join(f"{rater['name']} ({rater['answers']})" for rater in result["raters"])
    lines = [f"answers about {result['hands']} hands by {people}"]
    if result["not_among_the_hands"]:
        lines.append(f"{result['not_among_the_hands']} answers are about hands that the CSV does not have")
    lines.append(f"between people: Krippendorff's alpha {_shown(result['alpha'])}")
    metric = result["metric"]
    if "not_computed" in metric:
        return "\n".join([*lines, f"with the metric: not computed: {metric['not_computed']}"])
    lines.append(
        f"with the metric, {metric['hands']} hands, {metric['wrong']} of them wrong: AUC {_shown(metric['auc'])}"
    )
    return "\n".join([*lines, f"accuracy of p_wrong > {THRESHOLD}: {_shown(metric['accuracy'])}"])


def _alpha(counts: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    value = float(alpha_draws(counts, np.ones((1, len(counts))))[0])
    if math.isnan(value):
        pairs = (counts.sum(axis=1) > 1).any()
        return {"not_computed": "all answers are the same" if pairs else "no hand has answers of two people"}
    replicates = alpha_draws(counts, weights)
    low, high = bootstrap.percentiles(replicates) if np.nanstd(replicates) > 0 else (None, None)
    return {"value": value, "low": low, "high": high}


def _metric(hands: Sequence[Hand], counts: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Return AUC and accuracy of `p_wrong` on the hands with a label and a score."""
    decided = counts[:, 0] != counts[:, 1]
    used = decided & np.array([hand.p_wrong is not None for hand in hands])
    scores = np.array([hand.p_wrong for hand, use in zip(hands, used, strict=True) if use], dtype=float)
    wrong, weights = (counts[:, 1] > counts[:, 0])[used], weights[:, used]
    if not len(scores):
        return {"not_computed": "no hand has both a label and p_wrong"}
    once = np.ones((1, len(scores)))
    right = ((scores > THRESHOLD) == wrong).astype(float)
    accuracy, accuracies = float(right.mean()), bootstrap.ratio_draws(right, np.ones(len(right)), weights)
    entry: dict[str, Any] = {
        "hands": len(scores),
        "wrong": int(wrong.sum()),
        "ties": int((~decided).sum()),
        "without_p_wrong": int((decided & ~used).sum()),
        "accuracy": _share(accuracy, accuracies, len(right)),
    }
    if wrong.all() or not wrong.any():
        return {**entry, "auc": {"not_computed": "people call all hands the same"}}
    area, areas = float(auc_draws(scores, wrong, once)[0]), auc_draws(scores, wrong, weights)
    return {**entry, "auc": _share(area, areas, int(min(wrong.sum(), (~wrong).sum())))}


def _share(value: float, replicates: np.ndarray, count: int) -> dict[str, Any]:
    low, high = bootstrap.share_around(value, replicates, count)
    return {"value": value, "low": low, "high": high}


def _shown(entry: dict[str, Any]) -> str:
    if "not_computed" in entry:
        return f"not computed: {entry['not_computed']}"
    interval = "" if entry["low"] is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{entry['value']:.3f}{interval}"


def _hand(row: dict[str, str], where: str) -> Hand:
    try:
        left, top, right, bottom = (float(row[side]) for side in ("left", "top", "right", "bottom"))
        p_wrong = float(row["p_wrong"]) if row["p_wrong"] else None
        fine = all(map(math.isfinite, (left, top, right, bottom))) and (p_wrong is None or 0 <= p_wrong <= 1)
    except (TypeError, ValueError):
        fine = False
    if not fine or right <= left or bottom <= top:
        raise UserError(f"{where} has no box or p_wrong that can be read: write the file again")
    name = f"{row['folder']}\n{row['image']}\n{row['hand']}"
    key = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Hand(Path(row["folder"]) / row["image"], (left, top, right, bottom), p_wrong, key)


def _crops(hands: Sequence[Hand]) -> list[Image.Image]:
    """Return the crop of every hand; an image with several is decoded once."""
    by_path = sorted(range(len(hands)), key=lambda place: hands[place].path)
    crops: dict[int, Image.Image] = {}
    for path, places in groupby(by_path, key=lambda place: hands[place].path):
        try:
            with open_image(path) as image:
                whole = upright(image)
        except (UnreadableImage, OSError):
            raise UserError(
                f"the image {path} is missing or cannot be decoded: run the command where `handtrain judge` ran"
            ) from None
        crops |= {place: crop(whole, hands[place].box) for place in places}
    return [crops[place] for place in range(len(hands))]


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
