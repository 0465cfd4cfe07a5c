"""One set of photographs in each of the forms that `handdata photos` reads, and a finder of hands without a model."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value

from handdata.vision.landmarks import Hands
from tests.builds import draw_jpeg

NAMES = [f"{number:04d}" for number in range(8)]
PICTURES = {name: draw_jpeg(number, size=80) for number, name in enumerate(NAMES)}
TEXTS = {name: f"a person in front of a wall with the number {number}" for number, name in enumerate(NAMES)}
SUBJECTS = {name: ("ann", "bob", "eve", "joe")[number // 2] for number, name in enumerate(NAMES)}


def plain(folder: Path) -> Path:
    """Write `<person>/0001.jpg`, each with its caption in `<person>/0001.txt`."""
    for name, data in PICTURES.items():
        path = folder / SUBJECTS[name] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{TEXTS[name]}\n")
    return folder


def by_gesture(folder: Path) -> Path:
    """Write the same below `vulcan/`, beside a folder of another gesture that nobody asks for."""
    plain(folder / "vulcan")
    (folder / "fist").mkdir()
    (folder / "fist" / "9999.jpg").write_bytes(draw_jpeg(99))
    return folder


def metadata_jsonl(folder: Path) -> Path:
    """Write a Hugging Face `imagefolder` with metadata.jsonl."""
    lines = [
        {"file_name": f"images/{name}.jpg", "text": TEXTS[name], "gesture": "vulcan", "subject": SUBJECTS[name]}
        for name in NAMES
    ]
    return _image_folder(folder, "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def metadata_csv(folder: Path) -> Path:
    """Write a Hugging Face `imagefolder` with metadata.csv."""
    lines = [f'images/{name}.jpg,"{TEXTS[name]}",{SUBJECTS[name]}' for name in NAMES]
    return _image_folder(folder, "metadata.csv", "\n".join(["file_name,caption,subject", *lines]))


def parquet(folder: Path) -> Path:
    """Write a dataset as `datasets` stores it, its gesture a ClassLabel."""
    folder.mkdir(parents=True)
    rows = {
        "photo": [{"bytes": data, "path": None} for data in PICTURES.values()],
        "label": [1] * len(NAMES),
        "text": list(TEXTS.values()),
        "subject": list(SUBJECTS.values()),
    }
    features = Features(
        photo=Image(), label=ClassLabel(names=["fist", "vulcan"]), text=Value("string"), subject=Value("string")
    )
    Dataset.from_dict(rows, features).to_parquet(folder / "train-00000.parquet")
    return folder


def tar(folder: Path) -> Path:
    """Write a WebDataset tar; the names of its members lead out of every folder."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "shard-000.tar", "w") as archive:
        for name in NAMES:
            about = {"text": TEXTS[name], "subject": SUBJECTS[name]}
            for ending, data in (("json", json.dumps(about).encode()), ("jpg", PICTURES[name])):
                member = tarfile.TarInfo(f"../../{name}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder


FORMS = {form.__name__: form for form in (plain, by_gesture, metadata_jsonl, metadata_csv, parquet, tar)}


class Finder:
    """A finder that sees one hand in every image, or none in dark ones; its shape varies little."""

    def __init__(self, *settings: object) -> None:
        pass

    def find(self, image: np.ndarray) -> Hands:
        """Return a hand whose place depends on the pixels, as 21 points on an arc."""
        if image.max() < 20:
            return Hands(np.zeros((0, 21, 3), np.float32), (), ())
        angle = np.linspace(0, 2.5, 21)
        points = np.stack([0.5 + 0.2 * np.cos(angle), 0.5 + 0.3 * np.sin(angle), 0 * angle], axis=-1)
        points[:, :2] += (image.mean() / 255 - 0.5) * 0.1
        return Hands(points[None].astype(np.float32), ("Right",), (0.9,))

    def __enter__(self) -> "Finder":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _image_folder(folder: Path, name: str, metadata: str) -> Path:
    (folder / "images").mkdir(parents=True)
    for stem, data in PICTURES.items():
        (folder / "images" / f"{stem}.jpg").write_bytes(data)
    (folder / "images" / "unlisted.jpg").write_bytes(draw_jpeg(77))
    (folder / name).write_text(metadata)
    return folder
