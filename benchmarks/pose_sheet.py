"""Draw a sheet of images by `benchmarks.pose_method`: each requested pose above the image that was generated from it.

    python -m benchmarks.pose_sheet FOLDER/images/ROW.npz SHEET.jpg --kind rows --gestures ok rock three

The images are the first of each gesture, not a selection.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.pose_world import unpacked

SIDE, GAP, LABEL = 96, 4, 16  # pixels
# MediaPipe's joints: the wrist, then four of each finger from its root to its tip.
BONES = [(0, 1), (0, 5), (5, 9), (9, 13), (13, 17), (17, 0)]
BONES += [(joint, joint + 1) for root in (1, 5, 9, 13, 17) for joint in range(root, root + 3)]


def skeleton(pose: np.ndarray) -> Image.Image:
    """Return a picture of a pose (64,)."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    joints = pose[:63].reshape(21, 3)[:, :2] * SIDE
    for start, end in BONES:
        draw.line([*joints[start], *joints[end]], fill=(40, 90, 160), width=2)
    for x, y in joints:
        draw.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill=(200, 60, 40))
    return picture


def sheet(columns: dict[str, np.ndarray], kind: str, gestures: list[str], count: int) -> Image.Image:
    """Return the first `count` images of each gesture, each below its pose."""
    height = LABEL + 2 * SIDE + 2 * GAP
    picture = Image.new("RGB", (count * (SIDE + GAP) + GAP, len(gestures) * height), "white")
    draw = ImageDraw.Draw(picture)
    for line, gesture in enumerate(gestures):
        chosen = np.flatnonzero((columns["kinds"] == kind) & (columns["gestures"] == gesture))
        known = chosen[~np.isnan(columns["poses"][chosen]).any(axis=1)][:count]
        top = line * height
        draw.text((GAP, top + 2), gesture, fill="black")
        for place, number in enumerate(known):
            left = GAP + place * (SIDE + GAP)
            image = Image.fromarray(columns["images"][number]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            picture.paste(skeleton(columns["poses"][number]), (left, top + LABEL))
            picture.paste(image, (left, top + LABEL + SIDE))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--kind", choices=("rows", "own"), default="rows")
    parser.add_argument("--gestures", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=9)
    given = parser.parse_args()
    with np.load(given.images) as file:
        columns = unpacked({name: file[name] for name in file.files})
    sheet(columns, given.kind, given.gestures, given.count).save(given.sheet, quality=85)


if __name__ == "__main__":
    main()
