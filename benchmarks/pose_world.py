"""The drawn world of `benchmarks.pose_method`: pictures of all gestures as a dataset, made once.

The landmarks are MediaPipe's, as in a dataset of photographs; texts are the drawn captions with the gesture's phrase.
`known.npz` holds the training hands from which the judge of gestures knows them, found at the models' size.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handdata.files import whole_folder
from handdata.gestures import gestures
from handdata.machine import watch_parent
from handdata.readers import read_jsonl
from handdata.recipe import RenderOptions
from handdata.rows.schema import features

SIZE = 64  # pixels of the mini models' images
TRAIN, TEST = 300, 40  # pictures per gesture
KNOWN = 150  # training hands per gesture that the judge knows


def render_options() -> RenderOptions:
    """Return the options of the drawing: no second hands, no oddities."""
    return RenderOptions(
        train=TRAIN, validation=0, test=TEST, size=2 * SIZE, seed=11, second_hand=0.0, oddities=False
    )  # fmt: skip


def prepare(folder: Path, jobs: int) -> Path:
    """Draw the world, find its hands, write FOLDER/dataset and FOLDER/known.npz unless they exist; return FOLDER."""
    if not (folder / "dataset" / "README.md").is_file():
        from handdata.world.render import draw

        draw(render_options(), folder / "world", workers=jobs)
        truths = [line for line in read_jsonl(folder / "world" / "truth.jsonl") if line["kind"] == "whole"]
        names = sorted({truth["gesture"] for truth in truths})
        with whole_folder(folder / "dataset") as partial, pool(jobs) as workers:
            parts = [[truth for truth in truths if truth["gesture"] == name] for name in names]
            for name, rows in zip(names, workers.map(_rows, [folder / "world"] * len(parts), parts), strict=True):
                _write(partial, name, rows, names)
            card = "".join(_configuration(name) for name in names)
            (partial / "README.md").write_text(f"---\nconfigs:\n{card}---\n# The drawn world\n", encoding="utf-8")
    if not (folder / "known.npz").is_file():
        _write_known(folder, jobs)
    return folder


def pool(jobs: int) -> ProcessPoolExecutor:
    """Return processes that are started afresh: a fork would copy a GPU's state."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=watch_parent)


def packed(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return images (n, h, w, 3) as JPEGs (quality 95, full colour), a fifth of their size: for files that travel."""
    files = [_jpeg(image) for image in images]
    return {"jpegs": np.frombuffer(b"".join(files), np.uint8), "ends": np.cumsum([len(file) for file in files])}


def unpacked(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return columns with the `images` that `packed` wrote."""
    data, ends = columns["jpegs"].tobytes(), columns["ends"].tolist()
    files = [data[first:last] for first, last in zip([0, *ends], ends, strict=False)]
    return {**columns, "images": np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])}


def find_hands(images: Sequence[np.ndarray]) -> list[list[Any]]:
    """Return the hands (`evaluation.hands.Hand`) in images (h, w, 3) of uint8."""
    from handtrain.evaluation import hands

    with hands.hand_finder(hands.DETECTION) as finder:
        return [hands.find(finder, image) for image in images]


def known_hands(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised landmarks (n, 63) and the gestures (n,) of the judge."""
    with np.load(folder / "known.npz") as file:
        return file["points"], file["names"]


def _rows(world: Path, truths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from handdata.vision.landmarks import HandFinder, decode, gesture_hand

    gesture = truths[0]["gesture"]
    phrase, rows = gestures()[gesture].phrase, []
    with zipfile.ZipFile(world / f"{gesture}.zip") as archive, HandFinder() as finder:
        for truth in truths:
            data = archive.read(f"{gesture}/{truth['image_id']}.jpg")
            image, box = decode(data), truth["hands"][0]["box"]
            assert image is not None
            hands = finder.find(image)
            chosen, inside = gesture_hand(hands.landmarks, [box], [gesture], gesture)
            data = _small(data)
            sha256 = hashlib.sha256(data).hexdigest()
            rows.append({
                "image": {"bytes": data, "path": None},
                "text": f"{truth['caption']}, {phrase}", "caption": truth["caption"], "gesture": gesture,
                "gesture_phrase": phrase, "image_id": truth["image_id"], "subject": truth["user_id"][:16],
                "hagrid_split": truth["split"], "width": SIZE, "height": SIZE,
                "orig_width": image.shape[1], "orig_height": image.shape[0], "bboxes": [box], "labels": [gesture],
                "hand_landmarks": hands.landmarks.tolist(), "handedness": list(hands.handedness),
                "handedness_score": list(hands.scores), "gesture_hand": chosen, "landmarks_in_box": inside,
                "rewrite": "kept", "checks": [], "source": "drawn", "member": f"{gesture}/{truth['image_id']}.jpg",
                "crc32": 0, "sha256": sha256,
            })  # fmt: skip
    return rows


def _small(data: bytes) -> bytes:
    """Return a picture at the models' size, so that the dataset is small enough to be carried to another machine."""
    return _jpeg(resized(data))


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _write(folder: Path, gesture: str, rows: list[dict[str, Any]], names: list[str]) -> None:
    from datasets import Dataset

    for split in ("train", "test"):
        chosen = [row for row in rows if row["hagrid_split"] == split]
        path = folder / "data" / gesture / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = features(names)
        Dataset.from_dict({name: [row[name] for row in chosen] for name in schema}, features=schema).to_parquet(path)


def _configuration(name: str) -> str:
    files = "".join(f"  - split: {split}\n    path: data/{name}/{split}-*.parquet\n" for split in ("train", "test"))
    return f"- config_name: {name}\n  data_files:\n{files}"


def _write_known(folder: Path, jobs: int) -> None:
    from handtrain.data.dataset import gestures_of

    names = gestures_of(folder / "dataset")
    with pool(jobs) as workers:
        found = list(workers.map(dataset_hands, [folder / "dataset"] * len(names), names))
    points = np.concatenate(found)
    labels = np.concatenate([[name] * len(part) for name, part in zip(names, found, strict=True)])
    np.savez_compressed(folder / "known.npz", points=points, names=labels)


def dataset_hands(dataset: Path, gesture: str, count: int = KNOWN) -> np.ndarray:
    """Return the normalised landmarks (n, 63) of the gesture's hands in a dataset's first training images."""
    from handtrain.data.dataset import load

    photographs = load(dataset, gesture, "train", count)
    images = [resized(photographs.image(index)) for index in range(len(photographs.rows))]
    return hands_in(images, [row.box for row in photographs.rows])


def hands_in(images: Sequence[np.ndarray], boxes: Sequence[Any]) -> np.ndarray:
    """Return the normalised landmarks (n, 63) of the hand in each image's box, if one is found."""
    from handtrain.method.gesture import hand_in_box, normalised

    points = []
    for box, found in zip(boxes, find_hands(images), strict=True):
        index = hand_in_box([hand.landmarks for hand in found], box) if found and box else -1
        points += [normalised(found[index]).ravel()] if index >= 0 else []  # type: ignore[arg-type]
    return np.array(points)


def resized(data: bytes) -> np.ndarray:
    """Return an image file's picture at the models' size."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def texts_without_gesture(dataset: Path, names: Sequence[str], count: int) -> Iterator[str]:
    """Yield captions of test rows, which name no gesture, the same number of each gesture."""
    import pyarrow.parquet as pq

    for name in names:
        table = pq.read_table(dataset / "data" / name / "test-00000-of-00001.parquet", columns=["image_id", "caption"])
        captions = sorted(table.to_pylist(), key=lambda row: str(row["image_id"]))
        yield from (row["caption"] for row in captions[:count])


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    print(json.dumps({"folder": str(prepare(given.folder, given.jobs))}))


if __name__ == "__main__":
    main()
