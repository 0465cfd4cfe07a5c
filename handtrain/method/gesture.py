"""Stage I: the gesture feature, the mean of 21 hand landmarks over the training images (paper, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handdata.errors import UserError
from handtrain.data.crops import Box
from handtrain.data.rows import Row

NUMBERS = 63  # 21 landmarks x (x, y, z)
WRIST, MIDDLE_KNUCKLE = 0, 9  # MediaPipe's numbering


@dataclass(frozen=True)
class GestureFeature:
    """A gesture feature, and the number of images that it is the mean of."""

    kind: str  # a key of FEATURES
    values: tuple[float, ...]  # (63,)
    images: int
    without_hand: int  # images without landmarks, which are left out


def gesture_feature(rows: Sequence[Row], kind: str) -> GestureFeature:
    """Return the mean landmarks of the hands that make the gesture; images without landmarks are left out.

    Raises `UserError` if no row has landmarks.
    """
    hands = [FEATURES[kind](row) for row in rows if row.landmarks is not None]
    if not hands:
        raise UserError(
            "--dataset: no row of the training split has landmarks of a hand (gesture_hand is -1 everywhere)"
        )
    mean = np.mean(hands, axis=0, dtype=np.float64).reshape(NUMBERS)
    return GestureFeature(kind, tuple(float(value) for value in mean), len(hands), len(rows) - len(hands))


def hand_in_box(landmarks: Sequence[np.ndarray] | np.ndarray, box: Box) -> int:
    """Return the index of the hand (21, 3) that overlaps most with a box (in fractions), or -1."""
    from handdata.vision.landmarks import gesture_hand

    left, top, right, bottom = box
    index, _ = gesture_hand(np.asarray(landmarks), [[left, top, right - left, bottom - top]], ["it"], "it")
    return index


def absolute(row: Row) -> np.ndarray:
    """Return a hand's landmarks (21, 3) as MediaPipe returns them: x, y in fractions of the image (as in the paper)."""
    return np.asarray(row.landmarks, dtype=np.float64)


def normalised(row: Row) -> np.ndarray:
    """Return a hand's landmarks (21, 3) with the wrist at the origin and unit distance to the middle knuckle.

    Left hands are mirrored. x, y and z are first converted to pixels: z is in fractions of the width.
    """
    points = np.asarray(row.landmarks, dtype=np.float64) * (row.width, row.height, row.width)
    points -= points[WRIST]
    if row.left_hand:
        points[:, 0] *= -1
    return points / max(float(np.linalg.norm(points[MIDDLE_KNUCKLE])), 1e-6)


FEATURES = {"absolute": absolute, "normalised": normalised}
