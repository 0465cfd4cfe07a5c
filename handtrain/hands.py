"""Find hands with MediaPipe and cut them out, by our rules and by those of the released code."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from handtrain.data import window

MOST_HANDS = 2  # per image
DETECTION = 0.5  # confidence from which a hand counts as found; MediaPipe's default
DETECTION_REFERENCE = 0.0  # the released code's for HAND-CONF (method, section 2)
PRESENCE = 0.5  # the released code leaves the graph's own
SEARCHED = 256  # pixels: a smaller image is enlarged to this short side before hands are searched
MARGIN = 0.25  # of the longer side of a hand's box, both sides together, around our crops
CROP = 299  # pixels, what Inception takes

STANDARD_CROP = f"one per hand: square around its landmarks, {MARGIN:.0%} wider, moved inside the image, to {CROP} px"
UNION_CROP = f"one per image: box around all hands, found with red and blue swapped; short side to {CROP} px, centre"
HAND_CROP = (
    f"one per hand, found after short side to {CROP} px and centre crop: its box; short side to {CROP} px, centre"
)


@dataclass(frozen=True)
class Hand:
    """A hand in an image of some width and height in pixels."""

    landmarks: np.ndarray  # (21, 3): x, y in fractions of the image, z in fractions of its width
    left_hand: bool  # the person's own, in an unmirrored photograph
    score: float  # of the handedness: what the released code calls confidence
    width: int
    height: int

    def points(self) -> np.ndarray:
        """Return the landmarks (21, 3) in pixels."""
        return self.landmarks * (self.width, self.height, self.width)


class HandFinder:
    """MediaPipe's hand landmarker for single images; a context manager, since it complains at exit if left open."""

    def __init__(self, model: Path, detection: float) -> None:
        from mediapipe.tasks import python as tasks

        options = tasks.vision.HandLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(model)),
            num_hands=MOST_HANDS,
            min_hand_detection_confidence=detection,
            min_hand_presence_confidence=PRESENCE,
        )
        self._landmarker = tasks.vision.HandLandmarker.create_from_options(options)

    def __call__(self, pixels: np.ndarray) -> list[Hand]:
        """Return the hands in an image (height, width, 3) of uint8, at most two."""
        import mediapipe as mp

        height, width = pixels.shape[:2]
        image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(_enlarged(pixels)))
        found = self._landmarker.detect(image)
        return [
            Hand(
                np.array([[p.x, p.y, p.z] for p in points]),
                side[0].category_name == "Left",
                side[0].score,
                width,
                height,
            )
            for points, side in zip(found.hand_landmarks, found.handedness, strict=True)
        ]

    def __enter__(self) -> "HandFinder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._landmarker.close()


def standard_crops(pixels: np.ndarray, hands: list[Hand]) -> list[np.ndarray]:
    """Return our crops (299, 299, 3): see STANDARD_CROP."""
    height, width = pixels.shape[:2]
    crops = []
    for hand in hands:
        low, high = hand.points()[:, :2].min(axis=0), hand.points()[:, :2].max(axis=0)
        side = int(np.clip(round(float((high - low).max()) * (1 + MARGIN)), 1, min(width, height)))
        left, top = (
            int(np.clip(round(float(middle - side / 2)), 0, length - side))
            for middle, length in zip((low + high) / 2, (width, height), strict=True)
        )
        crops.append(fitted(pixels[top : top + side, left : left + side]))
    return crops


def box_crop(pixels: np.ndarray, hands: list[Hand]) -> np.ndarray | None:
    """Return the released code's crop (299, 299, 3): the box around the landmarks of all hands given, no margin.

    None where nothing of the box lies in the image.
    """
    height, width = pixels.shape[:2]
    points = np.concatenate([hand.points()[:, :2] for hand in hands])  # (21 * hands, 2)
    left, top = (int(value) for value in np.clip(points.min(axis=0), 0, (width, height)))
    right, bottom = (int(value) for value in np.clip(points.max(axis=0), 0, (width, height)))
    if right <= left or bottom <= top:
        return None
    return fitted(pixels[top:bottom, left:right])


def fitted(pixels: np.ndarray) -> np.ndarray:
    """Return an image as Resize(299) and CenterCrop(299) make it, (299, 299, 3)."""
    from PIL import Image

    cut = window(pixels.shape[1], pixels.shape[0], CROP)
    resized = Image.fromarray(pixels).resize((cut.width, cut.height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((cut.left, cut.top, cut.left + CROP, cut.top + CROP)))


def _enlarged(pixels: np.ndarray) -> Any:
    height, width = pixels.shape[:2]
    if min(height, width) >= SEARCHED:
        return pixels
    from PIL import Image

    scale = SEARCHED / min(height, width)
    size = (max(SEARCHED, round(width * scale)), max(SEARCHED, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
