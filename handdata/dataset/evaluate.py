"""Open and measure a published dataset: CLIP cosines as in the paper's table 1, phrase rate, gesture agreement."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from handdata.assets import cache_folder
from handdata.dataset.checksums import CHECKSUMS, damaged
from handdata.errors import Unfinished, UserError, first_line
from handdata.huggingface import parse_dataset
from handdata.progress import bar
from handdata.recipe import EvaluateOptions
from handdata.rows.published import open_published
from handdata.vision.clip import Clip
from handdata.vision.pixels import UnreadableImage, open_image, to_rgb

CAPTION_ROWS = 5000  # rows, the first ones, of the caption-caption cosine (as in the released code)
_BATCH = 32
_COLUMNS = ("image", "caption", "text", "gesture", "gesture_phrase", "gesture_hand", "landmarks_in_box", "labels")
# Raised for files and cards that are not those of a dataset.
_NOT_LOADED = (OSError, ValueError, TypeError, KeyError, AttributeError, pa.ArrowException)

Scores = dict[str, float | int | str | None]


def evaluate(dataset: str | Path, options: EvaluateOptions, progress: bool = True) -> dict[str, Any]:
    """Return scores per gesture and for `all` of a dataset (`hf:USER/NAME[@REVISION]` or a folder).

    Without CLIP's weights the cosines are None and `not_computed` gives the reason. Raises `UserError` as
    `open_dataset` does, and for a split that the dataset does not have.
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
    return {"dataset": str(dataset), "splits": wanted, "clip": options.clip, "not_computed": why, "gestures": scores}


class Group:
    """The rows of one gesture."""

    def __init__(self) -> None:
        self.rows, self.phrase, self.hand, self.agree = 0, 0, 0, 0
        self.inside: list[float] = []
        self.vectors: dict[str, list[np.ndarray]] = {"image": [], "caption": [], "text": []}

    def add(self, row: dict[str, Any], gesture: str, vectors: dict[str, np.ndarray] | None) -> None:
        """Count one row; `vectors` are unit vectors of its image, caption and text."""
        self.rows += 1
        text, phrase = (str(row[name] or "").lower() for name in ("text", "gesture_phrase"))
        self.phrase += bool(phrase) and text.count(phrase) == 1
        self.hand += row["gesture_hand"] is not None and row["gesture_hand"] >= 0
        self.agree += (row["landmarks_in_box"] or 0) >= 0.5 and gesture in (row["labels"] or ())
        if row["landmarks_in_box"] is not None:
            self.inside.append(row["landmarks_in_box"])
        for name, vector in (vectors or {}).items():
            self.vectors[name].append(vector)

    @classmethod
    def together(cls, groups: list["Group"]) -> "Group":
        """Return the union of groups."""
        union = cls()
        for group in groups:
            for name in ("rows", "phrase", "hand", "agree", "inside"):
                setattr(union, name, getattr(union, name) + getattr(group, name))
            for name, vectors in group.vectors.items():
                union.vectors[name] = union.vectors[name] + vectors
        return union

    def scores(self) -> Scores:
        """Return the measures of this group by name."""
        scores: Scores = {
            "rows": self.rows,
            "phrase_rate": self.phrase / self.rows,
            "hand_found": self.hand / self.rows,
            "gesture_agreement": self.agree / self.rows,
            "landmarks_in_box": float(np.mean(self.inside)) if self.inside else None,
        }
        image, caption, text = (np.stack(vectors) if vectors else None for vectors in self.vectors.values())
        for name, words in (("caption", caption), ("text", text)):
            cosines = None if image is None or words is None else np.sum(image * words, 1)
            scores[f"clip_image_{name}"] = None if cosines is None else float(np.mean(cosines))
            scores[f"clip_{name}_{name}"] = None if words is None else mean_cosine(words[:CAPTION_ROWS])
        return scores


def mean_cosine(vectors: np.ndarray) -> float:
    """Return the mean cosine of all pairs of unit vectors (n, d), self-pairs included, as in the paper's table 1.

    The sum of v.w over all pairs is the squared length of the sum of vectors, so no n x n matrix is needed.
    """
    total = vectors.astype(np.float64).sum(0)
    return float(total @ total) / len(vectors) ** 2


def open_dataset(dataset: str | Path) -> Any:
    """Return the configuration `all` of a published dataset as a `datasets.DatasetDict`, a `Dataset` by split.

    `dataset` is `hf:USER/NAME[@REVISION]`, a folder that `publish` made, or a build; if the Hub cannot be reached, a
    cached dataset is opened. Raises `UserError` if it does not exist or is not a dataset of handdata, `Unfinished` if
    it is not in the cache and the Hub cannot be reached.
    """
    import datasets
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.parquet.parquet import Parquet

    published = open_published(parse_dataset(str(dataset), "dataset"), "dataset")
    place = published.place
    if isinstance(place, Path) and (place / CHECKSUMS).is_file():
        for path in damaged(place, under="data/"):
            raise UserError(f"{place / path} is damaged: publish the dataset there again")
    datasets.disable_progress_bars()
    files = {split: published.files("all", split) for split in published.splits("all")}
    # the library's own search would take `[`, `{` and `::` in a folder's name for patterns
    lists = {
        split: DataFilesList([_readable(path) for path in paths], [_state(path) for path in paths])
        for split, paths in files.items()
    }
    try:
        builder = Parquet(config_name="all", data_files=DataFilesDict(lists))  # type: ignore[no-untyped-call]
        builder.download_and_prepare()
        splits = builder.as_dataset()
    except (*_NOT_LOADED, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"dataset {place} cannot be loaded: {first_line(error.__cause__ or error)}") from None
    for split, rows in splits.items():
        lacking = [column for column in _COLUMNS if column not in rows.column_names]
        if lacking:
            raise UserError(
                f"dataset {place}, split {split} lacks the column '{lacking[0]}': handdata did not write it"
            )
    return splits


def _readable(path: Path) -> str:
    """Return a path that the library reads as a path: it splits others at `::`, which therefore get a link."""
    if "::" not in str(path):
        return str(path)
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    link = cache_folder() / "links" / f"{name}.parquet"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(path.absolute())
    return str(link)


def _state(path: Path) -> tuple[str, int, int]:
    """Return the facts by which the library recognises a file that has changed since it was cached."""
    facts = path.resolve().stat()
    return str(path.resolve()), facts.st_size, facts.st_mtime_ns


def text(result: dict[str, Any]) -> str:
    """Return the result of `evaluate` as a readable table."""
    names = list(result["gestures"]["all"])
    width = max(map(len, result["gestures"]))
    heads = [name.replace("_", " ") for name in names]
    lines = ["  ".join([" " * width, *heads])]
    for gesture, scores in result["gestures"].items():
        cells = [_shown(scores[name]).rjust(len(head)) for name, head in zip(names, heads, strict=True)]
        lines.append("  ".join([gesture.ljust(width), *cells]))
    if result["not_computed"]:
        lines.append(f"CLIP cosines not computed: {result['not_computed']}")
    return "\n".join(lines)


def as_json(result: dict[str, Any]) -> str:
    """Return the result of `evaluate` as JSON."""
    return json.dumps(result, indent=1)


def _batches(rows: Any, progress: bool, name: str) -> Iterator[dict[str, list[Any]]]:
    from datasets import Image

    with bar(total=len(rows), desc=f"evaluate {name}", unit="row", show=progress) as shown:
        undecoded = rows.select_columns(list(_COLUMNS)).cast_column("image", Image(decode=False))
        for batch in undecoded.iter(_BATCH):
            yield batch
            shown.update(len(batch["text"]))


def _embedded(clip: Clip, batch: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Return unit vectors (b, d) of `image`, `caption` and `text`."""
    images = [_pixels(image) for image in batch["image"]]
    vectors = {"image": clip.images(images), "caption": clip.texts(batch["caption"]), "text": clip.texts(batch["text"])}
    return {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in vectors.items()}


def _pixels(file: dict[str, Any]) -> np.ndarray:
    """Return the pixels (h, w, 3) of an undecoded cell of the column `image`."""
    try:
        with open_image(file["bytes"] or Path(file["path"])) as image:
            return np.asarray(to_rgb(image))
    except UnreadableImage as error:
        raise UserError(f"an image of the dataset cannot be decoded ({error}): build or download it again") from None


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
