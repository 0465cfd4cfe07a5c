"""Poses of hands in the square that the model sees: from landmarks to numbers, and the bank of a gesture's own."""

from collections.abc import Sequence

import numpy as np

from handtrain.data.crops import Window
from handtrain.data.dataset import row_window
from handtrain.data.rows import Row
from handtrain.method.conditioning import POSE_NUMBERS

BANK_POSES = 8  # per gesture at most
BANK_TOTAL = 160  # of all gestures together, so that a model's hand1000.json stays below 100 kB
_ROUNDS = 20  # of the search for medoids


def pose_in_square(landmarks: np.ndarray, left_hand: bool, width: int, height: int, cut: Window) -> np.ndarray:
    """Return the pose (64,) of a hand in an image of `width` x `height` pixels, cut to its square.

    landmarks (21, 3): x and y in fractions of the image, z in fractions of its width, as MediaPipe returns them.
    """
    scale = np.array([cut.width, cut.height, cut.width], dtype=np.float64)
    joints = (np.asarray(landmarks, dtype=np.float64) * scale - (cut.left, cut.top, 0)) / cut.size  # (21, 3)
    return np.append(joints.ravel(), 1.0 if left_hand else -1.0).astype(np.float32)


def pose_of_row(row: Row, size: int, crop: str) -> np.ndarray:
    """Return the pose (64,) of the hand that makes a row's gesture, all NaN if it has no landmarks."""
    if row.landmarks is None:
        return np.full(POSE_NUMBERS, np.nan, dtype=np.float32)
    return pose_in_square(np.array(row.landmarks), row.left_hand, row.width, row.height, row_window(row, size, crop))


def hand_size(joints: np.ndarray) -> float:
    """Return the longer side of the box of a hand's joints (21, 2 or 3)."""
    return float(np.ptp(joints[:, :2], axis=0).max())


def medoids(poses: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` poses (count, 64) of (n, 64) that are the least distant from all others; NaN is left out.

    k-medoids: every pose belongs to its nearest medoid, and the pose with the smallest distance to its group becomes
    the medoid, until nothing changes. It starts with the most central pose and those farthest from the chosen ones.
    """
    known = poses[~np.isnan(poses).any(axis=1)]
    if len(known) <= count:
        return np.asarray(known)
    squares = (known**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * known @ known.T, 0))  # (n, n)
    chosen = [int(distances.sum(axis=1).argmin())]
    while len(chosen) < count:
        chosen.append(int(distances[:, chosen].min(axis=1).argmax()))
    for _ in range(_ROUNDS):
        groups = distances[:, chosen].argmin(axis=1)
        members = [np.flatnonzero(groups == group) for group in range(count)]
        new = [int(of[distances[np.ix_(of, of)].sum(axis=1).argmin()]) for of in members]
        if new == chosen:
            break
        chosen = new
    return np.asarray(known[sorted(chosen)])


def bank(poses: np.ndarray, gestures: int) -> list[str]:
    """Return a gesture's medoids as lines of text for hand1000.json, fewer if a model has many gestures."""
    count = max(1, min(BANK_POSES, BANK_TOTAL // gestures))
    return [" ".join(f"{value:.4g}" for value in pose) for pose in np.round(medoids(_typical(poses), count), 4)]


def _typical(poses: np.ndarray) -> np.ndarray:
    """Return the poses without the most isolated tenth: wrong detections, of which medoids would be some.

    Isolated is a pose far from its fifth nearest neighbour. Of fewer than 20 poses all are kept.
    """
    known = np.asarray(poses[~np.isnan(poses).any(axis=1)])
    if len(known) < 20:
        return known
    distances = [np.partition(np.linalg.norm(known - pose, axis=1), 5)[5] for pose in known]
    nearest = np.argsort(distances, kind="stable")[: len(known) - len(known) // 10]
    return np.asarray(known[np.sort(nearest)])


def from_bank(lines: Sequence[str]) -> np.ndarray:
    """Return the poses (n, 64) of a bank."""
    return np.array([[float(value) for value in line.split()] for line in lines], dtype=np.float32)
