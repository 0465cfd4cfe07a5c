"""Make the shipped landmarks of drawn gestures, and count the photographs whose gesture they name.

    python -m benchmarks.gesture_reference --out models/gesture-reference.npz
    python -m benchmarks.gesture_reference --photographs FOLDER

Every gesture of `handdata render` is drawn `--hands` times; MediaPipe's landmarks of the hand in the gesture's box
enter the file, normalised. FOLDER has a folder of photographs per gesture.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from handdata.machine import cores, map_unordered
from handdata.progress import bar
from handdata.recipe import RenderOptions
from handdata.vision.landmarks import decode
from handdata.world.skeleton import GESTURES
from handdata.world.tasks import Task, draw_task, plan
from handtrain.data.crops import Box
from handtrain.evaluation.hands import DETECTION, find, hand_finder
from handtrain.judging.reference import gestures_named, write_reference
from handtrain.method.gesture import hand_in_box, normalised

SEED = 1000  # of the drawn pictures, as for the mini models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--hands", type=int, default=40, help="pictures per gesture")
    parser.add_argument("--size", type=int, default=256, help="pixels of a picture")
    given = parser.parse_args()
    if given.out:
        make(given.out, given.hands, given.size)
    if given.photographs:
        name_photographs(given.photographs)


def make(out: Path, count: int, size: int) -> None:
    """Draw the gestures and write the landmarks of those whose hand is found."""
    options = RenderOptions(train=count, validation=0, test=0, size=size, seed=SEED, second_hand=0.0, oddities=False)
    tasks = plan(options)
    drawn = map_unordered(partial(draw, options=options), tasks, cores(), "gesture_reference")
    rows = []
    with hand_finder(DETECTION) as finder:
        for task, jpeg, box in bar(drawn, desc="draw", total=len(tasks), unit="picture"):
            pixels = decode(jpeg)
            assert pixels is not None, "a drawn picture can be read"
            hands = find(finder, pixels)
            index = hand_in_box([hand.landmarks for hand in hands], box) if hands else -1
            if index >= 0:
                rows.append((task.gesture, task.number, normalised(hands[index]).ravel()))  # type: ignore[arg-type]
    rows.sort(key=lambda row: row[:2])
    write_reference(out, np.array([row[2] for row in rows]), np.array([row[0] for row in rows]))
    print(f"{len(rows)} hands of {len(tasks)} pictures, {out.stat().st_size / 1000:.0f} kB")


def draw(task: Task, options: RenderOptions) -> tuple[Task, bytes, Box]:
    """Return a task with its picture as a JPEG and the box of its hand in fractions (left, top, right, bottom)."""
    jpeg, record, _ = draw_task(task, options)
    left, top, width, height = record["bboxes"][0]
    return task, jpeg, (left, top, left + width, top + height)


def name_photographs(folder: Path) -> None:
    """Print the name of every photograph's hand next to its gesture, for gestures that can be drawn."""
    right = found = 0
    with hand_finder(DETECTION) as finder:
        for path in sorted(path for name in GESTURES for path in (folder / name).glob("*.jpg")):
            pixels = decode(path.read_bytes())
            names = gestures_named(find(finder, pixels)) if pixels is not None else []
            found, right = found + bool(names), right + (path.parent.name in names)
            print(f"{path.parent.name:<20} {', '.join(names) or 'no hand'}")
    print(f"{right} of {found} photographs with a hand are named right")


if __name__ == "__main__":
    main()
