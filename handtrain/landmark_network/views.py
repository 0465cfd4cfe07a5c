"""Eight views of a hand, each cropped as MediaPipe crops a hand for its landmark network."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SIDE = 224  # px, width and height of a view
# Mirrored, turned (degrees), enlarged, moved across and down (in regions).
VIEWS = (
    (False, 0, 1.0, 0.0, 0.0),
    (True, 0, 1.0, 0.0, 0.0),
    (False, 18, 1.0, 0.0, 0.0),
    (False, -18, 1.0, 0.0, 0.0),
    (False, 0, 1.25, 0.0, 0.0),
    (False, 0, 0.85, 0.0, 0.0),
    (True, 25, 1.1, 0.05, 0.0),
    (True, -25, 0.92, 0.0, 0.05),
)
_PALM = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]  # MediaPipe takes its region from these landmarks
_SCALE, _SHIFT = 2.0, -0.1  # the region's size and its shift towards the fingers, in sizes of these landmarks' box
_REACH = 1.3  # half of the part around a region that the views can show, in regions


def region(points: Floats) -> tuple[Floats, float, float]:
    """Return center (2,), side and angle (radians) of MediaPipe's square region around landmarks (21, >= 2) in pixels.

    The region is upright for the hand: the wrist is at the bottom, the fingers point up. Source: MediaPipe's
    HandLandmarksToRectCalculator and the hand landmarker's RectTransformationCalculator. The side is 1 px at least.
    """
    flat = points[:, :2].astype(float)
    knuckles = ((flat[5] + flat[13]) / 2 + flat[9]) / 2
    up = knuckles - flat[0]
    angle = float(np.pi / 2 - np.arctan2(-up[1], up[0]))
    axes = _axes(angle)
    turned = flat[_PALM] @ axes.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    middle = (low + high) / 2 + np.array([0, _SHIFT * (high[1] - low[1])])
    return middle @ axes, max(float(_SCALE * max(high - low)), 1.0), angle


def views(image: NDArray[np.uint8], points: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Return crops (8, SIDE, SIDE, 3) of a hand, and matrices (8, 2, 3) from their pixels to the image's.

    `image` is (h, w, 3), `points` (21, >= 2) are its landmarks in pixels, counted from the image's corner; outside of
    the image a crop is black.
    """
    center, side, angle = region(points)
    part, corner, scale = _part(image, center, side)
    middle, side = (center - corner) * scale, side * scale
    crops, matrices = [], []
    for mirrored, turn, enlarged, across, down in VIEWS:
        axes = _axes(angle + np.radians(turn))
        matrix = np.zeros((2, 3))
        matrix[:, :2] = axes.T * side * enlarged / SIDE
        moved = middle + side * (np.array([across, down]) @ axes)
        matrix[:, 2] = moved - matrix[:, :2].sum(axis=1) * SIDE / 2
        if mirrored:
            matrix[:, 2] += matrix[:, 0] * SIDE
            matrix[:, 0] *= -1
        centers = matrix.copy()  # OpenCV's whole numbers are pixels' centers
        centers[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
        crops.append(cv2.warpAffine(part, centers, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
        back = matrix / scale
        back[:, 2] += corner
        matrices.append(back)
    return np.stack(crops), np.stack(matrices)


def _axes(angle: float) -> Floats:
    """Return the directions across and down a region as rows."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _part(image: NDArray[np.uint8], center: Floats, side: float) -> tuple[NDArray[np.uint8], Floats, float]:
    """Return the part of an image around a region, its corner and its scale.

    A large region is reduced by the mean of areas, since sampling single pixels of it would alias. A small one is
    enlarged with bicubic interpolation, as `HandFinder` enlarges small images.
    """
    size = np.array(image.shape[1::-1])
    low = np.floor(np.clip(center - _REACH * side, 0, size - 1)).astype(int)
    high = np.ceil(np.clip(center + _REACH * side, low + 1, size)).astype(int)
    part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    scale = 1.0
    if side < SIDE or side > 1.5 * SIDE:
        scale = SIDE / side
        method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        across, down = (max(1, round(float(length) * scale)) for length in high - low)
        part = cv2.resize(part, (across, down), interpolation=method)  # type: ignore[assignment]
    return part, low.astype(float), scale
