"""Measure a published dataset: CLIP cosines as the paper's table 1 has them, phrase rate, gesture agreement."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from handdata.clip import Clip
from handdata.errors import Unfinished, UserError
from handdata.recipe import EvaluateOptions

CAPTION_ROWS = 5000  # caption-caption is over the first so many rows (as in the released code)
_BATCH = 32

Scores = dict[str, float | int | str | None]


def evaluate(dataset: str, options: EvaluateOptions, progress: bool = True) -> dict[str, Any]:
    """Return scores per gesture and for `all` of a dataset (`hf:USER/NAME[@REVISION]` or a folder).

    Without CLIP's weights the cosines are None and `not_computed` says why. Raises `UserError` for no dataset.
    """
    splits = open_dataset(dataset)
    wanted = list(splits) if options.split == "all" else [options.split]
    missing = [name for name in wanted if name not in splits]
    if missing:
        raise UserError(f"--split {missing[0]}: {dataset} has {', '.join(splits)}")
    try:
        clip, why = Clip(options.clip, options.device), None
    except (UserError, Unfinished) as error:
        clip, why = None, str(error)
    groups: dict[str, Group] = {}
    for name in wanted:
        names = splits[name].features["gesture"].names
        for batch in _batches(splits[name], progress, name):
            vectors = _embedded(clip, batch) if clip else None
            for index, number in enumerate(batch["gesture"]):
                row = {key: values[index] for key, values in batch.items()}
                group = groups.setdefault(names[number], Group())
                group.add(row, names[number], None if vectors is None else {k: v[index] for k, v in vectors.items()})
    everything = Group.together(list(groups.values()))
    scores = {name: group.scores() for name, group in groups.items()} | {"all": everything.scores()}
    return {"dataset": dataset, "splits": wanted, "clip": options.clip, "not_computed": why, "gestures": scores}


class Group:
    """The rows of one gesture."""

    def __init__(self) -> None:
        self.rows, self.phrase, self.hand, self.agree = 0, 0, 0, 0
        self.inside: list[float] = []
        self.vectors: dict[str, list[np.ndarray]] = {"image": [], "caption": [], "text": []}

    def add(self, row: dict[str, Any], gesture: str, vectors: dict[str, np.ndarray] | None) -> None:
        """Count one row; `vectors` are unit vectors of its image, caption and text."""
        self.rows += 1
        self.phrase += row["text"].lower().count(row["gesture_phrase"].lower()) == 1
        self.hand += row["gesture_hand"] is not None and row["gesture_hand"] >= 0
        self.agree += (row["landmarks_in_box"] or 0) >= 0.5 and gesture in row["labels"]
        if row["landmarks_in_box"] is not None:
            self.inside.append(row["landmarks_in_box"])
        for name, vector in (vectors or {}).items():
            self.vectors[name].append(vector)

    @classmethod
    def together(cls, groups: list["Group"]) -> "Group":
        """Return the union of groups."""
        one = cls()
        for group in groups:
            for name in ("rows", "phrase", "hand", "agree", "inside"):
                setattr(one, name, getattr(one, name) + getattr(group, name))
            for name, vectors in group.vectors.items():
                one.vectors[name] = one.vectors[name] + vectors
        return one

    def scores(self) -> Scores:
        """Return the measures of this group by name."""
        found: Scores = {
            "rows": self.rows,
            "phrase_rate": self.phrase / self.rows,
            "hand_found": self.hand / self.rows,
            "gesture_agreement": self.agree / self.rows,
            "landmarks_in_box": float(np.mean(self.inside)) if self.inside else None,
        }
        image = self.vectors["image"]
        for name in ("caption", "text"):
            words = self.vectors[name]
            found[f"clip_image_{name}"] = (
                float(np.mean(np.sum(np.stack(image) * np.stack(words), 1))) if image else None
            )
            found[f"clip_{name}_{name}"] = mean_cosine(np.stack(words)[:CAPTION_ROWS]) if words else None
        return found


def mean_cosine(vectors: np.ndarray) -> float:
    """Return the mean over all pairs of unit vectors (n, d), each with itself included, as the paper's table 1 has it.

    The sum over all pairs of v.w is the squared length of the sum, so that no n x n matrix is needed.
    """
    total = vectors.astype(np.float64).sum(0)
    return float(total @ total) / len(vectors) ** 2


def open_dataset(dataset: str) -> Any:
    """Return the configuration `all` of a dataset as a DatasetDict. Raises `UserError` where there is none."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    name, _, revision = dataset.removeprefix("hf:").partition("@")
    local = not dataset.startswith("hf:")
    if local and not (Path(dataset) / "README.md").is_file():
        raise UserError(f"{dataset} is no dataset: give hf:USER/NAME, or a folder that `handdata publish --to` made")
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(dataset if local else name, "all", revision=None if local else revision or None)
    except (FileNotFoundError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{dataset} cannot be loaded: {str(error).splitlines()[0]}") from None
    except ConnectionError as error:
        raise UserError(f"{dataset} cannot be reached: {str(error).splitlines()[0]}") from None


def text(found: dict[str, Any]) -> str:
    """Return the scores as a table for people."""
    names = list(found["gestures"]["all"])
    width = max(map(len, found["gestures"]))
    heads = [name.replace("_", " ") for name in names]
    lines = ["  ".join([" " * width, *heads])]
    for gesture, scores in found["gestures"].items():
        cells = [_shown(scores[name]).rjust(len(head)) for name, head in zip(names, heads, strict=True)]
        lines.append("  ".join([gesture.ljust(width), *cells]))
    if found["not_computed"]:
        lines.append(f"CLIP cosines not computed: {found['not_computed']}")
    return "\n".join(lines)


def as_json(found: dict[str, Any]) -> str:
    """Return the scores as JSON."""
    return json.dumps(found, indent=1)


def _batches(rows: Any, progress: bool, name: str) -> Iterator[dict[str, list[Any]]]:
    from tqdm import tqdm

    columns = ["image", "caption", "text", "gesture", "gesture_phrase", "gesture_hand", "landmarks_in_box", "labels"]
    with tqdm(total=len(rows), desc=f"evaluate {name}", unit="row", disable=None if progress else True) as bar:
        for batch in rows.select_columns(columns).iter(_BATCH):
            yield batch
            bar.update(len(batch["text"]))


def _embedded(clip: Clip, batch: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Return unit vectors (b, d) of `image`, `caption` and `text`."""
    images = [np.asarray(image.convert("RGB")) for image in batch["image"]]
    found = {"image": clip.images(images), "caption": clip.texts(batch["caption"]), "text": clip.texts(batch["text"])}
    return {name: _unit(vectors) for name, vectors in found.items()}


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
