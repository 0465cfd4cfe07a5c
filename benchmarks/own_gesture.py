"""Measure tuning on few photographs of an own gesture: 10, 30 and 100 drawn Vulcan salutes without annotations.

    python -m benchmarks.own_gesture --out FOLDER --world POSES [--only TEXT ...] [--table]

The photographs are plain JPEGs of 256 px; from 30 on, ten of them are three bursts. `handdata photos` makes a dataset
of each number, `handtrain train` tunes the shipped mini Stable Diffusion, `handtrain generate` draws 60 prompts of
pictures that it never saw with one to five seeds. A hand's gesture is that of its neighbours among 300 fresh drawn
pictures of `vulcan` and of each of the 18 gestures (those of FOLDER `POSES` of `benchmarks.pose_method`); colours are
those of `handtrain.mini.colours`. A finished row is a JSON file in --results and is not made again; an interrupted
training or generation resumes.
"""

import argparse
import io
import json
import shutil
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks import own_gesture_rows, pose_world
from benchmarks.own_gesture_rows import Row
from benchmarks.pose_rows import BASE
from handdata.files import whole_folder, write_json
from handdata.markdown import markdown_table
from handdata.readers import read_json, read_jsonl

RESULTS = Path(__file__).parent / "results" / "own_gesture"
GESTURE, PHRASE = "vulcan", "making vulcan salute hand gesture"
MOST, REFERENCE, PROMPTS = 100, 300, 60  # photographs; pictures of each gesture for the judge; texts
BURSTS = (4, 3, 3)  # photographs of each burst
_DRAWN = {"gesture_file": (GESTURE,), "validation": 0, "oddities": False}


def prepare(folder: Path) -> None:
    """Draw the photographs, the fresh pictures and their texts, unless they exist."""
    from handdata.recipe import RenderOptions
    from handdata.world.render import draw

    draw(RenderOptions(train=MOST, test=0, seed=31, **_DRAWN), folder / "world-photos")  # type: ignore[arg-type]
    fresh = RenderOptions(train=REFERENCE, test=PROMPTS, size=128, second_hand=0.0, seed=32, **_DRAWN)  # type: ignore[arg-type]
    draw(fresh, folder / "world-fresh")
    texts = [f"{truth['caption']}, {PHRASE}" for truth, _ in _pictures(folder / "world-fresh", "test")]
    (folder / "prompts.txt").write_text("\n".join(list(dict.fromkeys(texts))[:PROMPTS]) + "\n", encoding="utf-8")


def dataset(folder: Path, count: int) -> Path:
    """Return the dataset of so many photographs, made as by `handdata photos` and `handdata publish`."""
    from handdata.builds.build import Build
    from handdata.cli.photos import Photos
    from handdata.recipe import CaptionOptions, RewriteOptions

    published = folder / f"dataset-{count}"
    if not published.is_dir():
        photographs = folder / f"photographs-{count}"
        if not photographs.is_dir():
            with whole_folder(photographs) as partial:
                for number, data in enumerate(photographed(folder / "world-photos", count)):
                    (partial / f"{number:04d}.jpg").write_bytes(data)
        flags = Photos(
            str(photographs), folder / f"build-{count}", (GESTURE,), (PHRASE,),
            caption=CaptionOptions(model="mini-blip"), rewrite=RewriteOptions(model="smollm2-135m", max_tokens=64),
        )  # fmt: skip
        build = Build.start(flags.recipe(), flags.out)
        build.run()
        build.publish(published)
    return published


def photographed(world: Path, count: int) -> Iterator[bytes]:
    """Yield the JPEG files of so many photographs; of 30 and more, ten are three bursts."""
    pictures = [data for _, data in _pictures(world, "train")]
    bursts = BURSTS if count >= 30 else ()
    yield from pictures[: count - sum(bursts) + len(bursts)]
    for data, length in zip(pictures, bursts, strict=False):
        for number in range(1, length):
            yield _shifted(data, number)


def _shifted(data: bytes, number: int) -> bytes:
    """Return a picture as the next of its burst: moved by some pixels, and a little brighter."""
    with Image.open(io.BytesIO(data)) as image:
        moved = image.convert("RGB").crop((number, 2 * number, image.width - 3 * number, image.height - 2 * number))
    buffer = io.BytesIO()
    ImageEnhance.Brightness(moved).enhance(1 + 0.03 * number).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _pictures(world: Path, split: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the whole pictures of a split with their truth."""
    with zipfile.ZipFile(world / f"{GESTURE}.zip") as archive:
        for truth in read_jsonl(world / "truth.jsonl"):
            if truth["split"] == split and truth["kind"] == "whole":
                yield truth, archive.read(f"{GESTURE}/{truth['image_id']}.jpg")


def make(row: Row, folder: Path) -> dict[str, Any]:
    """Train a row and draw its images into FOLDER/images; return what it took."""
    from handtrain.generation.generate import generate

    start, model, losses = time.monotonic(), BASE, []
    if row.photographs:
        run = _train(row, folder)
        model = str(run.model)
        losses = [[line["step"], round(line["validation_loss"], 5)] for line in run.log if "validation_loss" in line]
    trained = time.monotonic()
    seeds = range(row.images // PROMPTS)
    images = folder / "images" / row.name
    generate(model, out=images, prompts=folder / "prompts.txt", seeds=seeds, batch=30, device="cpu", steps=20)
    took = {"train_s": round(trained - start), "draw_s": round(time.monotonic() - trained)}
    return {**took, "device": "cpu", "date": time.strftime("%Y-%m-%d"), "validation": losses}


def _train(row: Row, folder: Path) -> Any:
    from handtrain.training.train import train

    run = folder / "runs" / row.name
    finished = train(
        dataset(folder, row.photographs), gesture=GESTURE, base=BASE, out=run, device="cpu", cache=folder / "cache",
        unet_samples=row.samples, seed=row.seed, **row.options, sample_every=0, validate_every=16,
        tensorboard=False, safety_checker=False, checkpoint_minutes=5.0,
    )  # fmt: skip
    for name in ("checkpoints", "stage2"):
        shutil.rmtree(run / name, ignore_errors=True)
    return finished


def known_hands(folder: Path, world: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised landmarks (n, 63) and the gestures (n,) of the judge, kept in FOLDER/known.npz."""
    from handtrain.data.dataset import gestures_of

    file = folder / "known.npz"
    if not file.is_file():
        data = pose_world.prepare(world, jobs=1) / "dataset"
        names = gestures_of(data)
        points = [pose_world.dataset_hands(data, name, REFERENCE) for name in names]
        pictures = list(_pictures(folder / "world-fresh", "train"))
        boxes = [truth["hands"][0]["box"] for truth, _ in pictures]
        corners = [(left, top, left + width, top + height) for left, top, width, height in boxes]
        points.append(pose_world.hands_in([pose_world.resized(image) for _, image in pictures], corners))
        labels = np.repeat([*names, GESTURE], [len(part) for part in points])
        np.savez_compressed(file, points=np.concatenate(points), names=labels)
    with np.load(file) as known:
        return known["points"], known["names"]


def gestures_in(images: list[np.ndarray], known: tuple[np.ndarray, np.ndarray]) -> list[list[str]]:
    """Return the names of the gestures in each image (64, 64, 3)."""
    from handtrain.evaluation import gesture_judge, metrics

    judge = metrics.GestureJudge.fit(*known)
    return [gesture_judge.named(hands, judge) if hands else [] for hands in pose_world.find_hands(images)]


def judged(row: Row, folder: Path, known: tuple[np.ndarray, np.ndarray], about: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a row: gestures and colours in its images, and the differences from the base's."""
    from handtrain.data.image_folder import read_records
    from handtrain.evaluation.bootstrap import share_difference
    from handtrain.mini import colours

    images, base = folder / "images" / row.name, folder / "images" / own_gesture_rows.base().name
    records = read_records(images)
    names = gestures_in([np.asarray(Image.open(images / record["file"]).convert("RGB")) for record in records], known)
    right = {record["file"]: float(GESTURE in named) for record, named in zip(records, names, strict=True)}
    write_json(folder / "right" / f"{row.name}.json", right)
    result = {
        "name": row.name, "variant": row.variant, "photographs": row.photographs, "samples": row.samples,
        "seed": row.seed, "options": row.options, "about": about, **_counted(names),
    }  # fmt: skip
    if row.photographs:
        of_base: dict[str, float] = read_json(folder / "right" / f"{base.name}.json")
        tuned, before = (np.array([side[file] for file in right]) for side in (right, of_base))
        low, high = share_difference(tuned, before)
        result["difference"] = {"value": float(tuned.mean() - before.mean()), "low": low, "high": high}
        result["base"] = float(before.mean())  # of the same prompts and noise
    shares = colours.judge([base, images] if row.photographs else [images])
    result["colours"] = {
        name: {Path(place).name if place != "difference" else place: share for place, share in of.items()}
        for name, of in shares.items()
    }
    return result


def _counted(names: list[list[str]]) -> dict[str, Any]:
    """Return the share of images with the gesture, of those with a hand, and the number of images of each gesture."""
    from handtrain.evaluation.bootstrap import wilson

    right = sum(GESTURE in named for named in names)
    low, high = wilson(right, len(names))
    accuracy = {"n": len(names), "value": right / len(names), "low": low, "high": high}
    counts = Counter(name for named in names for name in set(named))
    return {"accuracy": accuracy, "hand_found": sum(map(bool, names)) / len(names), "gestures": dict(counts)}


def ceiling(folder: Path, known: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Return what the judge sees in drawn pictures that it does not know, as they are and through the base's VAE."""
    from benchmarks.pose_drawing import through_vae

    drawn = [*_pictures(folder / "world-fresh", "test"), *_pictures(folder / "world-photos", "train")]
    images = [pose_world.resized(data) for _, data in drawn]
    through = list(through_vae(np.stack(images), "cpu"))
    return {"name": "ceiling", "drawn": _counted(gestures_in(images, known)), **_counted(gestures_in(through, known))}


def table(results: Path) -> str:
    """Return a Markdown table of the finished rows."""
    lines = []
    for row in [own_gesture_rows.base(), *own_gesture_rows.rows()]:
        record = read_json(results / f"{row.name}.json")
        if record is None:
            continue
        counts, images = record["gestures"], record["accuracy"]["n"]
        confused = [f"{100 * counts.get(name, 0) / images:.0f}" for name in ("palm", "stop", "four")]
        shares = [_percent(record["colours"][name][row.name]) for name in ("sleeve", "background")]
        cells = [row.variant, str(row.photographs), str(row.samples), str(images), _percent(record["accuracy"])]
        lines.append(
            [
                *cells,
                _percent(record.get("difference")),
                f"{100 * record['hand_found']:.0f}",
                ", ".join(confused),
                *shares,
            ]
        )
    head = ["variant", "photographs", "samples", "images", "vulcan, %", "against the base", "hand found",
            "palm, stop, four", "sleeve", "wall"]  # fmt: skip
    return markdown_table(head, lines)


def _percent(share: dict[str, float] | None) -> str:
    if share is None:
        return ""
    low, high = (100 * share[name] for name in ("low", "high"))
    return f"{100 * share['value']:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of pictures, datasets, runs and images")
    parser.add_argument("--world", type=Path, help="folder of the drawn world of benchmarks.pose_method")
    parser.add_argument("--only", nargs="*", default=[], help="only rows whose name contains one of these texts")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the finished rows alone")
    given = parser.parse_args()
    if not given.table:
        folder, world = given.out, given.world or given.out / "poses"
        prepare(folder)
        chosen = [row for row in own_gesture_rows.rows() if not given.only or any(o in row.name for o in given.only)]
        for row in [*own_gesture_rows.bases(chosen), *chosen]:
            done = read_json(given.results / f"{row.name}.json")
            if done is None or done["accuracy"]["n"] < row.images:
                print(f"own_gesture: {row.name}", file=sys.stderr, flush=True)
                about = make(row, folder)
                record = judged(row, folder, known_hands(folder, world), about)
                write_json(given.results / f"{row.name}.json", record)
                print(json.dumps(record["accuracy"]), file=sys.stderr, flush=True)
        if not (given.results / "ceiling.json").is_file():
            write_json(given.results / "ceiling.json", ceiling(folder, known_hands(folder, world)))
    print(table(given.results))


if __name__ == "__main__":
    main()
