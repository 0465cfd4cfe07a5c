"""Detection of hands with MediaPipe: 21 landmarks each, handedness, and the hand that makes the gesture.

The stage `landmarks`, the trainer and the metrics use the same finder, so that results on photographs and on generated
images are comparable.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handdata import assets
from handdata.errors import UserError
from handdata.recipe import MIN_SIDE as MIN_SIDE  # handtrain imports it from here

Image = NDArray[np.uint8]  # (h, w, 3), RGB
Landmarks = NDArray[np.float32]  # (hands, 21, 3): x, y in fractions of the image, z as MediaPipe gives it

ASSET = "hand-landmarker"  # in manifests/assets.toml
LONGEST = 32_766  # pixels of a side: OpenCV, inside MediaPipe, counts with 16 bits


@dataclass(frozen=True)
class Hands:
    """The detected hands of one image."""

    landmarks: Landmarks  # (hands, 21, 3)
    handedness: tuple[str, ...]  # Left or Right: the person's own hand in an unmirrored photograph
    scores: tuple[float, ...]  # confidence of handedness


class HandFinder:
    """MediaPipe's HandLandmarker for still images. Close it: its destructor prints a warning at exit."""

    def __init__(self, hands: int = 2, detection: float = 0.5, presence: float = 0.5, min_side: int = MIN_SIDE) -> None:
        """Load MediaPipe's model. Raises `UserError` if the package or the model file is missing."""
        try:
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError:
            raise UserError("landmarks need MediaPipe: pip install 'hand1000[data]' or 'hand1000[judge]'") from None
        self._min_side = min_side
        options = vision.HandLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=assets.path(ASSET).read_bytes()),
            num_hands=hands,
            min_hand_detection_confidence=detection,
            min_hand_presence_confidence=presence,
        )
        with _quiet_stderr():
            self._landmarker = vision.HandLandmarker.create_from_options(options)

    def find(self, image: Image) -> Hands:
        """Return the hands in an RGB image (h, w, 3); an image with a short side below `min_side` is enlarged first.

        Its long side is `LONGEST` at most, whatever the short side then is: MediaPipe ends the process beyond that.
        """
        import cv2
        import mediapipe
        from PIL import Image as Pillow

        scale = self._min_side / min(image.shape[:2])
        limit = LONGEST / max(image.shape[:2])
        if limit < max(scale, 1):
            size = [max(1, int(side * limit)) for side in (image.shape[1], image.shape[0])]
            image = np.asarray(Pillow.fromarray(image).resize((size[0], size[1]), Pillow.Resampling.BICUBIC))
        elif scale > 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        detected = self._landmarker.detect(picture)
        points = [[(point.x, point.y, point.z) for point in hand] for hand in detected.hand_landmarks]
        sides = [categories[0] for categories in detected.handedness]
        return Hands(
            np.array(points, np.float32).reshape(-1, 21, 3),
            tuple(side.category_name for side in sides),
            tuple(float(side.score) for side in sides),
        )

    def close(self) -> None:
        self._landmarker.close()

    def __enter__(self) -> "HandFinder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def decode(data: bytes) -> Image | None:
    """Decode an image file to RGB (h, w, 3); return None for a damaged one."""
    from handdata.vision.pixels import UnreadableImage, open_image, to_rgb

    try:
        with open_image(data) as image:
            return np.asarray(to_rgb(image))
    except UnreadableImage:
        return None


def gesture_hand(landmarks: Landmarks, bboxes: list[list[float]], labels: list[str], gesture: str) -> tuple[int, float]:
    """Return the index of the hand that makes the gesture, and the share of its landmarks inside the gesture's box.

    It is the hand whose bounding box of the landmarks has the largest intersection over union with a box of that label;
    -1 and 0.0 without any overlap. Boxes are [x, y, w, h] in fractions of the image.
    """
    best, chosen, inside = 0.0, -1, 0.0
    for box in (box for box, label in zip(bboxes, labels, strict=True) if label == gesture):
        low, high = np.array(box[:2]), np.array(box[:2]) + np.array(box[2:])
        for number, hand in enumerate(landmarks):
            points = hand[:, :2]
            overlap = _overlap(points.min(0), points.max(0), low, high)
            if overlap > best:
                share = ((points >= low) & (points <= high)).all(axis=1).mean()
                best, chosen, inside = overlap, number, float(share)
    return chosen, inside


def _overlap(low: NDArray, high: NDArray, other_low: NDArray, other_high: NDArray) -> float:
    """Return the intersection over union of two boxes, each given by two corners."""
    shared = np.prod(np.clip(np.minimum(high, other_high) - np.maximum(low, other_low), 0, None))
    union = np.prod(high - low) + np.prod(other_high - other_low) - shared
    return float(shared / union) if union > 0 else 0.0


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard stderr while MediaPipe sets up a graph: its C++ code logs there, and no option turns that off."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
