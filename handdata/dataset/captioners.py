"""Compare captioners on the images of a dataset, as the paper's table 1 does: one row of scores per captioner."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from handdata.dataset.evaluate import (
    CAPTION_ROWS,
    Scores,
    batches,
    mean_cosine,
    names_phrase,
    open_clip,
    pixels,
    requested_splits,
    shown,
    unit,
)  # fmt: skip
from handdata.markdown import markdown_table
from handdata.recipe import EvaluateOptions
from handdata.texts.captioners.captioner import captioner_class, named_captioner, open_captioner
from handdata.vision.clip import Clip
from handdata.web.urls import public_url

_DATASET = {"caption": "the dataset's captions", "text": "the dataset's texts"}  # rows of the table, by column


@dataclass
class _Rows:
    """The rows that all captioners describe: the gesture's phrase, CLIP's unit vector of the image, the texts."""

    phrases: list[str] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in _DATASET})


def compare(dataset: str | Path, options: EvaluateOptions, progress: bool = True) -> dict[str, Any]:
    """Return the scores of the dataset's captions and texts and of each captioner on its images.

    `clip_image_caption` and `clip_caption_caption` are mean CLIP cosines (table 1); `phrase_rate` is the share of
    captions with the gesture's phrase exactly once; `gesture_agreement` the share of captions that CLIP finds closer
    to the phrase of their gesture than to those of the dataset's other gestures. Without CLIP's weights these are None
    and `not_computed` gives the reason. Raises `UserError` or `Unfinished` before any image is described if a captioner
    cannot be used.
    """
    named = {}
    for name in options.captioners:
        chosen = named_captioner(name, options.device)
        shown_name = f"{public_url(chosen.server)}#{chosen.model}" if chosen.server else name
        named[shown_name] = captioner_class(chosen).at_commit(chosen)
    splits = requested_splits(dataset, options.split)
    clip, why = open_clip(options)
    rows = _read(splits, clip, progress)
    scores = {_DATASET[name]: _scores(rows, texts, clip) for name, texts in rows.texts.items()}
    for name, chosen in named.items():
        with closing(open_captioner(chosen)) as captioner:
            captions: list[str | None] = []
            for batch in _all_batches(splits, progress, name):
                captions += captioner.describe([pixels(image) for image in batch["image"]])
        scores[name] = _scores(rows, captions, clip)
    about = {"dataset": str(dataset), "splits": list(splits), "clip": options.clip, "not_computed": why}
    return {**about, "captioners": scores}


def text(result: dict[str, Any]) -> str:
    """Return the result of `compare` as a table."""
    names = list(next(iter(result["captioners"].values())))
    cells = [
        [captioner, *(shown(scores[name]) for name in names)] for captioner, scores in result["captioners"].items()
    ]
    table = markdown_table(["captioner", *(name.replace("_", " ") for name in names)], cells)
    return "\n".join([table, *([f"not computed: {result['not_computed']}"] if result["not_computed"] else [])])


def _read(splits: dict[str, Any], clip: Clip | None, progress: bool) -> _Rows:
    rows = _Rows()
    for batch in _all_batches(splits, progress, "CLIP"):
        rows.phrases += [str(phrase or "") for phrase in batch["gesture_phrase"]]
        for name, texts in rows.texts.items():
            texts += batch[name]
        if clip:
            rows.images += list(unit(clip.images([pixels(image) for image in batch["image"]])))
    return rows


def _all_batches(splits: dict[str, Any], progress: bool, task: str) -> Iterator[dict[str, list[Any]]]:
    for name, split in splits.items():
        yield from batches(split, progress, f"{task}, {name}")


def _scores(rows: _Rows, captions: Sequence[str | None], clip: Clip | None) -> Scores:
    """Return the scores of captions, one per row; rows without a caption count as wrong and have no cosine."""
    there = [number for number, caption in enumerate(captions) if caption]
    named = [names_phrase(captions[number] or "", rows.phrases[number]) for number in there]
    scores: Scores = {"rows": len(captions), "described": len(there)}
    scores |= dict.fromkeys(("clip_image_caption", "clip_caption_caption"))
    scores |= {"phrase_rate": sum(named) / len(captions), "gesture_agreement": None}
    if clip is None or not there:
        return scores
    words = np.concatenate(
        [unit(clip.texts([captions[n] or "" for n in there[i : i + 32]])) for i in range(0, len(there), 32)]
    )
    scores["clip_image_caption"] = float(np.mean(np.sum(np.stack([rows.images[n] for n in there]) * words, 1)))
    scores["clip_caption_caption"] = mean_cosine(words[:CAPTION_ROWS])
    phrases = list(dict.fromkeys(rows.phrases))
    if len(phrases) > 1:
        nearest = (words @ unit(clip.texts(phrases)).T).argmax(1)  # (n,)
        right = [phrases[place] == rows.phrases[n] for place, n in zip(nearest, there, strict=True)]
        scores["gesture_agreement"] = sum(right) / len(captions)
    return scores
