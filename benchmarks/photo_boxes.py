"""Boxes and gesture hands of photographs without annotations, against the truth of drawn hands.

    handdata render --gesture-file vulcan --gestures vulcan fist palm ok like rock --train 50 --validation 0 --test 0 \\
        --second-hand 0.6 --no-oddities --seed 21 --out WORLD
    python benchmarks/photo_boxes.py WORLD --out FOLDER

Each gesture's pictures are a folder of plain JPEGs, as `handdata photos` takes them. For several margins the script
prints the intersection over union of the box of MediaPipe's landmarks with the box of the true joints and with that of
the hand's flesh (what HaGRID's annotators draw); for the margin in use also the share of pictures with at least 0.80,
how often the hand that is labelled with the gesture is the drawn one that makes it, and the distances of hands from the
reference of their own and of the other gestures. A line of JSON follows. The measurements are kept in FOLDER.
"""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from handdata.photos import hands as choosing
from handdata.photos.forms import read
from handdata.photos.hands import AGREES, MARGIN, agreement, box_of, distances_to
from handdata.photos.measure import Measured, measure
from handdata.readers import read_jsonl
from handdata.recipe import Recipe

MARGINS = (0.0, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    truths = {row["image_id"]: row for row in read_jsonl(arguments.world / "truth.jsonl")}
    gestures = list(dict.fromkeys(row["gesture"] for row in truths.values()))
    found = {gesture: _measured(arguments.world, gesture, arguments.out) for gesture in gestures}
    rows = [row for gesture in gestures for row in _rows(found[gesture], gesture, truths)]
    result: dict[str, float | None] = {"pictures": len(rows), "without hand": sum(row["hand"] is None for row in rows)}
    print(f"{len(rows)} pictures, {result['without hand']} without a detected hand; medians and means of the IoU")
    print("margin  true joints    flesh")
    with_hand = [row for row in rows if row["hand"] is not None]
    for margin in MARGINS:
        joints, flesh = (np.array([_iou(box_of(row["hand"], 1.0, margin), row[name]) for row in with_hand])
                         for name in ("joints", "flesh"))  # fmt: skip
        print(f"{margin:>6.2f}  {np.median(joints):.3f} {joints.mean():.3f}  {np.median(flesh):.3f} {flesh.mean():.3f}")
        if margin == MARGIN:
            result |= {"margin": margin, "joints": float(joints.mean()), "flesh": float(flesh.mean())}
            result |= {f"{name} from 0.80": float((values >= 0.8).mean())
                       for name, values in (("joints", joints), ("flesh", flesh))}  # fmt: skip
    right = [row["right"] for row in with_hand]
    several = [row["right"] for row in with_hand if row["hands"] > 1]
    result |= {"right hand": float(np.mean(right)), "several hands": len(several)}
    result |= {"right of several": float(np.mean(several)) if several else None}
    result |= _distances(found)
    print(json.dumps(result))


def _measured(world: Path, gesture: str, out: Path) -> list[tuple[str, Measured]]:
    """Return the image ids of a gesture's pictures with what `handdata photos` measures."""
    folder = out / gesture
    with zipfile.ZipFile(world / f"{gesture}.zip") as archive:
        for name in archive.namelist():
            path = folder / Path(name).name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
    photos = read(folder, (gesture,), out / "copies", "WORLD").photos
    measured = measure(photos, Recipe("boxes"), out / f"{gesture}.parquet", progress=True)
    return [(Path(photo.name).stem, row) for photo, row in zip(photos, measured, strict=True)]


def _rows(found: list[tuple[str, Measured]], gesture: str, truths: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each picture the chosen hand, whether it makes the gesture, and the true boxes."""
    chosen = agreement([measured.hands for _, measured in found]).chosen
    rows = []
    for (image_id, measured), number in zip(found, chosen, strict=True):
        drawn = truths[image_id]["hands"]
        joints = [np.array(hand["joints_2d"]) for hand in drawn]
        hand = measured.hands[number] if number >= 0 else None
        nearest = None if hand is None else int(np.argmin([np.abs(points - hand).mean() for points in joints]))
        makes = nearest if nearest is not None and drawn[nearest]["label"] == gesture else 0
        low, high = joints[makes].min(axis=0), joints[makes].max(axis=0)
        rows.append({
            "hand": hand, "right": nearest is not None and drawn[nearest]["label"] == gesture,
            "hands": len(measured.hands), "joints": [*low, *(high - low)], "flesh": drawn[makes]["box"],
        })  # fmt: skip
    return rows


def _distances(found: dict[str, list[tuple[str, Measured]]]) -> dict[str, Any]:
    """Return quantiles of the hands' distances from the references of their own and of the other gestures."""
    hands = {gesture: [measured.hands for _, measured in rows] for gesture, rows in found.items()}
    own, others = [], []
    for gesture, of_gesture in hands.items():
        with_hands = [number for number, each in enumerate(of_gesture) if len(each)]
        reference = choosing._reference(of_gesture, with_hands)
        own += [float(distances_to(of_gesture[number], reference)[0].min()) for number in with_hands]
        for other, of_other in hands.items():
            if other != gesture:
                near = [float(distances_to(each, reference)[0].min()) for each in of_other if len(each)]
                print(f"{other:>8} from {gesture:<8} {np.quantile(near, 0.05):.3f} {np.median(near):.3f}")
                others += near
    quantiles = {"own 95 %": float(np.quantile(own, 0.95)), "own 99 %": float(np.quantile(own, 0.99))}
    return quantiles | {"others 5 %": float(np.quantile(others, 0.05)), "agrees": AGREES,
                        "others that agree": float((np.array(others) <= AGREES).mean())}  # fmt: skip


def _iou(box: list[float], other: list[float]) -> float:
    low, high = np.maximum(box[:2], other[:2]), np.minimum(np.add(box[:2], box[2:]), np.add(other[:2], other[2:]))
    shared = float(np.prod(np.clip(high - low, 0, None)))
    return shared / (box[2] * box[3] + other[2] * other[3] - shared)


if __name__ == "__main__":
    main()
