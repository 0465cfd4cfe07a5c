"""Find hands with MediaPipe and cut them out, by our rules and by those of the released code."""

from dataclasses import dataclass

import numpy as np

from handdata.landmarks import ASSET, HandFinder
from handdata.recipe import MIN_SIDE
from handtrain.data.crops import window

MOST_HANDS = 2  # per image
DETECTION = 0.5  # confidence from which a hand counts as found; MediaPipe's default
DETECTION_REFERENCE = 0.0  # the released code's for HAND-CONF
PRESENCE = 0.5  # the released code leaves the graph's own
SEARCHED = MIN_SIDE  # pixels: a smaller image is enlarged to this short side before hands are searched
MODEL = ASSET  # name of the landmarker's file among the assets
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


def hand_finder(detection: float) -> HandFinder:
    """Return MediaPipe's landmarker at a detection confidence; close it after use, or take it as a context manager.

    Raises `UserError` where its model file is missing.
    """
    return HandFinder(MOST_HANDS, detection, PRESENCE, SEARCHED)


def find(finder: HandFinder, pixels: np.ndarray) -> list[Hand]:
    """Return the hands in an image (height, width, 3) of uint8, at most two."""
    found, (height, width) = finder.find(pixels), pixels.shape[:2]
    return [
        Hand(landmarks, side == "Left", score, width, height)
        for landmarks, side, score in zip(found.landmarks, found.handedness, found.scores, strict=True)
    ]


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
