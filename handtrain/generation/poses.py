"""The poses of generated images: a gesture's own, those of a dataset's rows, of a photograph, or of a JSON file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handdata.errors import UserError
from handdata.readers import require_json
from handtrain.data.crops import window
from handtrain.data.image_folder import SUFFIXES
from handtrain.method.noise import seed_of
from handtrain.method.poses import from_bank, pose_in_square

WORDS = ("own", "none", "rows")  # of --pose, apart from a gesture and a file

Pose = tuple[float, ...]


def check_pose(about: dict[str, Any], pose: str, pose_guidance: float | None) -> None:
    """Raise `UserError` for a --pose or --pose-guidance that the model does not support."""
    if not about.get("pose"):
        if pose != "own" or pose_guidance is not None:
            raise UserError("--pose and --pose-guidance need a model that was trained with --pose: leave them out")
        return
    if pose not in (*WORDS, *about["gestures"]) and not Path(pose).is_file():
        raise UserError(
            f"--pose {pose} is not a file or a gesture of the model ({', '.join(about['gestures'])}): "
            f"give a photograph, a JSON file with landmarks, a gesture, or {', '.join(WORDS)}"
        )


def poses_of(
    about: dict[str, Any], pose: str, keyed: Sequence[tuple[str | None, str]], rows: Mapping[str, np.ndarray]
) -> dict[str | None, list[Pose]]:
    """Return for each prompt, by its key, the poses that its images take turns with by their seeds; [] for none.

    `keyed` are keys and prompts, `rows` the poses of a dataset's rows by key. With `own` the gesture is the one whose
    phrase is in the prompt.
    """
    banks = {name: from_bank(entry["poses"]) for name, entry in about.get("gestures", {}).items() if "poses" in entry}
    if not banks or pose == "none":
        return {}
    if pose == "rows":
        if not rows:
            raise UserError("--pose rows needs --prompts DATASET:SPLIT: the poses are those of its rows")
        return {key: _tuples(row[None]) for key, row in rows.items() if not np.isnan(row).any()}
    if pose == "own":
        phrases = {entry["phrase"]: name for name, entry in about["gestures"].items()}
        named = {key: [phrases[phrase] for phrase in phrases if phrase in text] for key, text in keyed}
        return {key: _tuples(banks[names[0]]) for key, names in named.items() if names}
    chosen = _tuples(banks[pose] if pose in banks else read_pose(Path(pose))[None])
    return {key: chosen for key, _ in keyed}


def chosen_pose(poses: Sequence[Pose], noise_seed: int) -> Pose | None:
    """Return the pose of an image, which depends on its seed alone; None without poses."""
    return poses[seed_of("pose", noise_seed) % len(poses)] if poses else None


def read_pose(path: Path) -> np.ndarray:
    """Return the pose (64,) of the hand in a photograph's central square, or in a JSON file.

    The JSON is {"landmarks": [[x, y, z], ...], "left_hand": false} with 21 points in fractions of the square. Raises
    `UserError` for other files, and for a photograph in which no hand is found.
    """
    if path.suffix.lower() in SUFFIXES:
        return pose_of_photograph(path, f"--pose {path}")[0]
    record = require_json(path, "--pose")
    try:
        points = np.array(record["landmarks"], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        points = np.empty(0)
    left = record.get("left_hand", False)
    if points.shape != (21, 3) or not np.isfinite(points).all() or not isinstance(left, bool):
        raise UserError(f'--pose {path} must hold "landmarks", 21 points [x, y, z], and "left_hand", true or false')
    return pose_in_square(points, left, 1, 1, window(1, 1, 1))


def pose_of_photograph(path: Path, name: str = "the photograph") -> tuple[np.ndarray, Image.Image]:
    """Return the pose (64,) of the hand in a photograph's central square, and the square, turned as its EXIF states.

    Raises `UserError` for a file that cannot be read as an image, and without a hand; `name` begins the sentence.
    """
    from handdata.vision.landmarks import HandFinder
    from handdata.vision.pixels import UnreadableImage, open_image, upright

    try:
        with open_image(path) as opened:
            image = upright(opened)
    except (UnreadableImage, OSError) as error:
        raise UserError(f"{name} cannot be read as an image ({error}): give a JPEG, PNG or WebP file") from None
    with HandFinder(hands=1) as finder:
        hands = finder.find(np.asarray(image))
    if not len(hands.landmarks):
        raise UserError(f"{name}: no hand is found in it; give a photograph in which one hand is clearly visible")
    cut = window(*image.size, min(image.size))
    return pose_in_square(hands.landmarks[0], hands.handedness[0] == "Left", *image.size, cut), cut.crop(image)


def _tuples(poses: np.ndarray) -> list[Pose]:
    return [tuple(round(float(value), 5) for value in pose) for pose in poses]
