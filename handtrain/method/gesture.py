"""Stage I: the gesture feature, the mean of 21 hand landmarks over the training images (paper, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from handdata.errors import UserError
from handtrain.data.dataset import Box, Photographs, Row

NUMBERS = 63  # 21 landmarks x (x, y, z)
WRIST, MIDDLE_KNUCKLE = 0, 9  # MediaPipe's numbering


@dataclass(frozen=True)
class GestureFeature:
    """The feature and what it was made of."""

    kind: str  # a key of FEATURES
    values: tuple[float, ...]  # (63,)
    images: int
    without_hand: int  # images that were left out


def gesture_feature(rows: Sequence[Row], kind: str) -> GestureFeature:
    """Return the mean landmarks of the hands that make the gesture; images without one are left out.

    Raises `UserError` if no row has such a hand.
    """
    hands = [FEATURES[kind](row) for row in rows if row.landmarks is not None]
    if not hands:
        raise UserError(
            "--dataset: no row of the training split has landmarks of a hand (gesture_hand is -1 everywhere)"
        )
    mean = np.mean(hands, axis=0, dtype=np.float64).reshape(NUMBERS)
    return GestureFeature(kind, tuple(float(value) for value in mean), len(hands), len(rows) - len(hands))


def found_again(photographs: Photographs, progress: bool) -> list[Row]:
    """Return the rows with landmarks from a fresh run of MediaPipe on their images, the dataset's own ones dropped.

    The hand that makes the gesture is again the one that overlaps most with the annotated box.
    """
    from tqdm import tqdm

    from handdata.landmarks import HandFinder, decode

    rows = []
    with HandFinder() as finder:
        for index, row in enumerate(tqdm(photographs.rows, desc="landmarks", disable=None if progress else True)):
            image = decode(photographs.image(index))
            if image is None or row.box is None:
                rows.append(replace(row, landmarks=None))
                continue
            hands = finder.find(image)
            chosen = hand_in_box(hands.landmarks, row.box)
            points = tuple(map(tuple, hands.landmarks[chosen].tolist())) if chosen >= 0 else None
            rows.append(replace(row, landmarks=points, left_hand=chosen >= 0 and hands.handedness[chosen] == "Left"))
    return rows


def hand_in_box(landmarks: Sequence[np.ndarray] | np.ndarray, box: Box) -> int:
    """Return which hand (21, 3), in fractions of the image, overlaps most with a box; -1 where none does."""
    from handdata.landmarks import gesture_hand

    left, top, right, bottom = box
    chosen, _ = gesture_hand(np.asarray(landmarks), [[left, top, right - left, bottom - top]], ["it"], "it")
    return chosen


def absolute(row: Row) -> np.ndarray:
    """Return a hand's landmarks (21, 3) as MediaPipe gives them: x, y in fractions of the image (the paper's)."""
    return np.asarray(row.landmarks, dtype=np.float64)


def normalised(row: Row) -> np.ndarray:
    """Return a hand's landmarks (21, 3) with the wrist at the origin and unit distance to the middle knuckle.

    Left hands are mirrored. x, y and z are first brought to pixels: z is in fractions of the width.
    """
    points = np.asarray(row.landmarks, dtype=np.float64) * (row.width, row.height, row.width)
    points -= points[WRIST]
    if row.left_hand:
        points[:, 0] *= -1
    return points / max(float(np.linalg.norm(points[MIDDLE_KNUCKLE])), 1e-6)


FEATURES = {"absolute": absolute, "normalised": normalised}
