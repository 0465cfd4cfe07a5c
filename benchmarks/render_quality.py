"""Measure the realism of the mini world's hands with a hand detector that was not trained on them.

Draws well-formed and malformed pictures and runs MediaPipe's HandLandmarker (confidence 0.5, two hands) on them. Prints
per gesture the share of detected hands, the distance of the landmarks from the true joints, and how often the nearest
neighbour among the well-formed hands has the same gesture.

    python benchmarks/render_quality.py --seed 2026 --count 20 --size 256 --sheet docs/mini_world.jpg
    python benchmarks/render_quality.py --speed
"""

import argparse
import io
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handdata.dataset.figures import Sheet, contact_sheet
from handdata.gestures import PAPER_GESTURES
from handdata.recipe import RenderOptions
from handdata.world.skeleton import GESTURES
from handdata.world.tasks import Task, draw_task

ON_THE_HAND = 0.3  # a detected hand counts if the mean error of its landmarks is below this share of the hand's size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20, help="pictures per gesture")
    parser.add_argument("--size", type=int, default=256, help="px")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gestures", nargs="*", default=list(GESTURES))
    parser.add_argument("--model", type=Path, default=Path.home() / ".cache/hand1000/hand_landmarker.task")
    parser.add_argument(
        "--sheet", type=Path, help="file for a contact sheet: three well-formed hands per gesture and a malformed one"
    )
    parser.add_argument("--missed", type=Path, help="file for a contact sheet of the hands that were not detected")
    parser.add_argument("--json", type=Path, help="file for the figures as JSON")
    parser.add_argument("--speed", action="store_true", help="only time the drawing, at 64, 128 and 256 px")
    args = parser.parse_args()
    if args.speed:
        print_speed(args.seed, args.gestures)
        return
    rows: dict[str, list[dict[str, Any]]] = {}
    seconds: list[float] = []
    for name in ("well-formed", "malformed"):
        options = RenderOptions(seed=args.seed, size=args.size, malformed=name == "malformed", oddities=False)
        tasks = [Task(gesture, "train", number, "whole") for gesture in args.gestures for number in range(args.count)]
        with ProcessPoolExecutor(args.workers) as pool:
            drawn = list(pool.map(_draw, tasks, [options] * len(tasks), chunksize=4))
        seconds += [picture["seconds"] for picture in drawn]
        rows[name] = detect(drawn, args.model, args.size)
    name_gestures(rows["well-formed"], rows["well-formed"])
    name_gestures(rows["malformed"], rows["well-formed"])
    figures = {name: summarise(of_kind) for name, of_kind in rows.items()}
    print_figures(figures, seconds, args.size)
    if args.json:
        args.json.write_text(json.dumps({"figures": figures, "seconds": float(np.mean(seconds))}, indent=1))
    if args.sheet:
        chosen = [
            row for g in args.gestures for row in _of(rows["well-formed"], g)[::7][:3] + _of(rows["malformed"], g)[3:4]
        ]
        contact_sheet(_by_gesture(chosen), args.sheet, 4)
    if args.missed:
        missed = _by_gesture([row for row in rows["well-formed"] if row["landmarks"] is None])
        contact_sheet(missed, args.missed, max((len(jpegs) for _, jpegs in missed), default=1))


def detect(drawn: list[dict[str, Any]], model: Path, size: int) -> list[dict[str, Any]]:
    """Return the rows with `landmarks` (21, 3) of the hand detected on the gesture's hand, else None."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.HandLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(model)), num_hands=2, min_hand_detection_confidence=0.5
    )
    landmarker = vision.HandLandmarker.create_from_options(options)
    try:
        for row in drawn:
            pixels = np.array(
                Image.open(io.BytesIO(row["jpeg"])).resize((max(size, 256),) * 2, Image.Resampling.BICUBIC)
            )
            result = landmarker.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels))
            true = np.array(row["hand"]["joints_2d"])
            scale = np.ptp(true, axis=0).max()
            row |= {"landmarks": None, "error": None, "hands": len(result.hand_landmarks), "score": None}
            for hand, side in zip(result.hand_landmarks, result.handedness, strict=True):
                landmarks = np.array([(p.x, p.y, p.z) for p in hand])
                error = float(np.linalg.norm(landmarks[:, :2] - true, axis=1).mean() / scale)
                if error < (row["error"] or ON_THE_HAND):
                    row |= {
                        "landmarks": landmarks,
                        "error": error,
                        "score": side[0].score,
                        "side": side[0].category_name.lower(),
                    }
    finally:
        landmarker.close()
    return drawn


def name_gestures(rows: list[dict[str, Any]], known: list[dict[str, Any]]) -> None:
    """Give each row the gesture of its nearest neighbour among the known, itself left out (`named`)."""
    known = [row for row in known if row["landmarks"] is not None]
    table = np.stack([_normalised(row["landmarks"]) for row in known])
    for row in rows:
        row["named"] = None
        if row["landmarks"] is not None:
            distance = np.linalg.norm(table - _normalised(row["landmarks"]), axis=1)
            order = np.argsort(distance)
            row["named"] = next(known[i]["gesture"] for i in order if known[i] is not row)


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the shares and the median error, per gesture and for the paper's six, the others and all."""
    groups = {gesture: _of(rows, gesture) for gesture in dict.fromkeys(row["gesture"] for row in rows)}
    groups["the paper's six"] = [row for row in rows if row["gesture"] in PAPER_GESTURES]
    groups["the others"] = [row for row in rows if row["gesture"] not in PAPER_GESTURES]
    groups["all"] = rows
    return {name: _figures(group) for name, group in groups.items() if group}


def print_figures(figures: dict[str, Any], seconds: list[float], size: int) -> None:
    """Print well-formed and malformed hands next to each other, one line per gesture."""
    print(f"{'':18}{'well-formed':^42}{'malformed':^42}")
    heads = ["n", "found", "error", "named", "of found", "score"]
    print(f"{'':18}" + "".join(f"{head:>8}" if head == "of found" else f"{head:>7}" for head in heads * 2))
    for group in figures["well-formed"]:
        cells = [_cells(figures[kind][group]) for kind in ("well-formed", "malformed")]
        print(f"{group:18}" + "".join(cells))
    print(f"drawing at {size} px: {np.mean(seconds):.3f} s of CPU time a picture, at most {np.max(seconds):.3f} s")


def print_speed(seed: int, gestures: list[str], rounds: int = 3) -> None:
    """Print the median CPU time of a picture, of three rounds over all gestures in this one process."""
    for size in (64, 128, 256):
        options = RenderOptions(seed=seed, size=size)
        taken = [
            _draw(Task(gesture, "train", number, "whole"), options)["seconds"]
            for number in range(rounds)
            for gesture in gestures
        ]
        quarter, middle, most = np.percentile(taken, [25, 50, 100])
        print(f"{size:4} px: median {middle:.3f} s of CPU time, lower quartile {quarter:.3f}, most {most:.3f}")


def _draw(task: Task, options: RenderOptions) -> dict[str, Any]:
    start = time.process_time()
    jpeg, _, truth = draw_task(task, options)
    return {"gesture": task.gesture, "jpeg": jpeg, "hand": truth["hands"][0], "seconds": time.process_time() - start}


def _by_gesture(rows: list[dict[str, Any]]) -> Sheet:
    return [
        (gesture, [row["jpeg"] for row in _of(rows, gesture)]) for gesture in dict.fromkeys(r["gesture"] for r in rows)
    ]


def _of(rows: list[dict[str, Any]], gesture: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["gesture"] == gesture]


def _normalised(landmarks: Any) -> Any:
    centered = landmarks - landmarks[0]
    return (centered / np.linalg.norm(centered, axis=1).max()).ravel()  # (63,)


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    detected = [row for row in rows if row["landmarks"] is not None]
    right = sum(row["named"] == row["gesture"] for row in detected)
    return {
        "n": len(rows),
        "found": len(detected) / len(rows),
        "error": float(np.median([row["error"] for row in detected])) if detected else None,
        "named": right / len(rows),  # a hand that is not detected counts as wrong
        "named_of_found": right / len(detected) if detected else None,
        "score": float(np.mean([row["score"] for row in detected])) if detected else None,
        "sides": sum(row["side"] == row["hand"]["side"] for row in detected) / len(detected) if detected else None,
    }


def _cells(figure: dict[str, Any]) -> str:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}%"

    score = "-" if figure["score"] is None else f"{figure['score']:.3f}"
    values = [figure["n"], share(figure["found"]), share(figure["error"]), share(figure["named"])]
    return "".join(f"{value:>7}" for value in values) + f"{share(figure['named_of_found']):>8}" + f"{score:>7}"


if __name__ == "__main__":
    main()
