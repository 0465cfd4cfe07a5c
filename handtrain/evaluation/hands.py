"""Hands detected by MediaPipe, and crops around them by our rules and by those of the released code."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from handdata.machine import cores
from handdata.vision.landmarks import ASSET, MIN_SIDE, HandFinder, Hands
from handtrain.data.crops import window

Result = TypeVar("Result")

MOST_HANDS = 2  # per image
DETECTION = 0.5  # smallest confidence of a detected hand; MediaPipe's default
DETECTION_REFERENCE = 0.0  # the released code's for HAND-CONF
PRESENCE = 0.5  # the graph's default, which the released code keeps
SEARCHED = MIN_SIDE  # pixels: the short side of a smaller image is enlarged to this before the search
MODEL = ASSET  # name of the landmarker's file among the assets
MARGIN = 0.25  # of the longer side of a hand's box, both sides together, around our crops
CROP = 299  # pixels, the input of Inception

# Keys of the cache and of evaluation files contain these sentences: other words would recompute all features.
SQUARE = f"one per hand: square around its landmarks, {MARGIN:.0%} wider, moved inside the image"
STANDARD_CROP = f"{SQUARE}, to {CROP} px"
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


class HandFinders(ExitStack):
    """MediaPipe's landmarkers at a detection confidence, one for each thread.

    A landmarker keeps nothing from one image to the next, so the threads change no result.
    """

    def __init__(self, detection: float) -> None:
        super().__init__()
        self._detection, self._opening, self._own = detection, threading.Lock(), threading.local()
        self._threads = self.enter_context(ThreadPoolExecutor(cores()))
        self._of_thread()

    def find(self, pixels: np.ndarray) -> Hands:
        """Return the hands in an RGB image (h, w, 3); called by any thread."""
        return self._of_thread().find(pixels)

    def map(self, function: Callable[..., Result], *columns: Iterable[object]) -> list[Result]:
        """Return the function's results in order, computed by a thread for each core."""
        return list(self._threads.map(function, *columns))

    def _of_thread(self) -> HandFinder:
        if not hasattr(self._own, "finder"):
            with self._opening:  # opening replaces the stderr of the whole process
                finder = HandFinder(MOST_HANDS, self._detection, PRESENCE, SEARCHED)
                self._own.finder = self.enter_context(finder)
        opened: HandFinder = self._own.finder
        return opened


def hand_finder(detection: float) -> HandFinders:
    """Return MediaPipe's landmarkers at a detection confidence: a context manager, to be closed after use.

    Raises `UserError` where their model file is missing.
    """
    return HandFinders(detection)


def find(finder: HandFinders, pixels: np.ndarray) -> list[Hand]:
    """Return the hands in an image (height, width, 3) of uint8, at most two."""
    detected, (height, width) = finder.find(pixels), pixels.shape[:2]
    return [
        Hand(landmarks, side == "Left", score, width, height)
        for landmarks, side, score in zip(detected.landmarks, detected.handedness, detected.scores, strict=True)
    ]


def standard_crops(pixels: np.ndarray, hands: list[Hand]) -> list[np.ndarray]:
    """Return our crop (299, 299, 3) of every hand: see STANDARD_CROP."""
    return [fitted(square) for square in squares(pixels, hands)]


def squares(pixels: np.ndarray, hands: list[Hand]) -> list[np.ndarray]:
    """Return the square (side, side, 3) around every hand as it is in the image: see SQUARE."""
    height, width = pixels.shape[:2]
    crops = []
    for hand in hands:
        low, high = hand.points()[:, :2].min(axis=0), hand.points()[:, :2].max(axis=0)
        side = int(np.clip(round(float((high - low).max()) * (1 + MARGIN)), 1, min(width, height)))
        left, top = (
            int(np.clip(round(float(middle - side / 2)), 0, length - side))
            for middle, length in zip((low + high) / 2, (width, height), strict=True)
        )
        crops.append(pixels[top : top + side, left : left + side])
    return crops


def union_crops(pixels: np.ndarray, finder: HandFinders) -> list[np.ndarray]:
    """Return the released code's crop (299, 299, 3) for FID-H, none without a hand: see UNION_CROP."""
    detected = find(finder, pixels[:, :, ::-1])
    return box_crops(pixels, [detected] if detected else [])


def hand_crops(pixels: np.ndarray, finder: HandFinders) -> list[np.ndarray]:
    """Return the released code's crop (299, 299, 3) of every hand for KID-H, without its faults: see HAND_CROP."""
    square = fitted(pixels)
    return box_crops(square, [[hand] for hand in find(finder, square)])


def box_crops(pixels: np.ndarray, groups: list[list[Hand]]) -> list[np.ndarray]:
    """Return for every group of hands the box (299, 299, 3) around their landmarks, without a margin.

    A box outside the image is left out.
    """
    height, width = pixels.shape[:2]
    crops = []
    for group in groups:
        points = np.concatenate([hand.points()[:, :2] for hand in group])  # (21 * hands, 2)
        left, top = (int(value) for value in np.clip(points.min(axis=0), 0, (width, height)))
        right, bottom = (int(value) for value in np.clip(points.max(axis=0), 0, (width, height)))
        if right > left and bottom > top:
            crops.append(fitted(pixels[top:bottom, left:right]))
    return crops


def fitted(pixels: np.ndarray) -> np.ndarray:
    """Return an image as Resize(299) and CenterCrop(299) transform it, (299, 299, 3)."""
    return np.asarray(window(pixels.shape[1], pixels.shape[0], CROP).crop(Image.fromarray(pixels)))
