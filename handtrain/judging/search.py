"""Hands of every size and number in one image: MediaPipe on the whole image and on overlapping squares of it.

MediaPipe's palm detector sees an image at 192 px, so it misses hands that are smaller than about a fifth of it. Squares
of a half, a quarter and an eighth of the short side are searched too: the finer ones only in large images, and where
the squares before them found hands that the whole image did not show.
"""

from collections.abc import Iterator

import numpy as np

from handdata.vision.landmarks import MIN_SIDE, HandFinder
from handtrain.evaluation.hands import DETECTION, PRESENCE, Hand

MOST_HANDS = 10  # in one square
LEAST = 16  # px, the longer side of a hand's box: smaller finds in a square are mostly errors
INSIDE = 0.5  # share of a hand's landmarks that the image must show
OVERLAP = 1 / 3  # of a square with the next one: a hand that is smaller is whole in one of them
DEEPEST = 3  # halvings of the short side
SMALLEST = 64  # px, the side of a square: hands in smaller ones have too few pixels
ALWAYS = 256  # px: squares of this side are always searched, smaller ones where the coarser ones found more hands
LONG = 1.25  # ratio of the sides from which squares of the whole short side are searched too
SHARED = 0.6  # of the smaller of two boxes: hands of two squares that overlap more are one hand
APART = 0.25  # of a hand's size: hands of two squares whose landmarks are closer on average are one hand

Square = tuple[int, int, int, int]  # left, top, width, height in pixels


def open_finder() -> HandFinder:
    """Return MediaPipe's landmarker for `find_hands`: a context manager, to be closed after use.

    Raises `UserError` where MediaPipe or its model file is missing.
    """
    return HandFinder(MOST_HANDS, DETECTION, PRESENCE, MIN_SIDE)


def find_hands(finder: HandFinder, pixels: np.ndarray) -> list[Hand]:
    """Return all hands in an image (height, width, 3) of uint8, those of the whole image first.

    A hand that several squares show is the one of the largest square, as `evaluate` finds it in the whole image.
    """
    height, width = pixels.shape[:2]
    hands = _in_square(finder, pixels, (0, 0, width, height))
    more = True
    for side, squares in levels(width, height):
        if side < ALWAYS and not more and side * 2 < min(width, height):
            break
        before = len(hands)
        for square in squares:
            hands += [hand for hand in _in_square(finder, pixels, square) if not _known(hand, hands)]
        more = len(hands) > before
    return hands


def levels(width: int, height: int) -> Iterator[tuple[int, list[Square]]]:
    """Yield the side of the squares of an image and their places, from the largest to the smallest."""
    short, long = min(width, height), max(width, height)
    for halvings in range(0 if long >= LONG * short else 1, DEEPEST + 1):
        side = round(short / 2**halvings)
        if side < SMALLEST:
            return
        places = [(left, top) for top in _starts(height, side) for left in _starts(width, side)]
        yield side, [(left, top, side, side) for left, top in places]


def _starts(length: int, side: int) -> list[int]:
    """Return where squares begin that cover a length and overlap by `OVERLAP` at least."""
    count = int(np.ceil((length - side) / (side * (1 - OVERLAP)))) + 1
    return [round(number * (length - side) / max(1, count - 1)) for number in range(count)]


def _in_square(finder: HandFinder, pixels: np.ndarray, square: Square) -> list[Hand]:
    """Return the hands in a square, in fractions of the whole image, without tiny ones.

    Those that an edge of the square cuts are left to the next square, those outside the image are left out.
    """
    (height, width), (left, top, across, down) = pixels.shape[:2], square
    found = finder.find(pixels[top : top + down, left : left + across])
    points = found.landmarks * (across, down, across) + (left, top, 0)  # (hands, 21, 3) in pixels of the image
    hands = []
    for of_hand, side, score in zip(points, found.handedness, found.scores, strict=True):
        low, high = of_hand[:, :2].min(axis=0), of_hand[:, :2].max(axis=0)
        cut = (low < (left, top)) & (np.array((left, top)) > 0)
        cut |= (high > (left + across, top + down)) & (np.array((left + across, top + down)) < (width, height))
        shown = ((of_hand[:, :2] >= 0) & (of_hand[:, :2] <= (width, height))).all(axis=1).mean()
        if not cut.any() and shown >= INSIDE and (high - low).max() >= LEAST:
            hands.append(Hand(of_hand / (width, height, width), side == "Left", score, width, height))
    return hands


def _known(hand: Hand, others: list[Hand]) -> bool:
    """Return whether a hand is one of the hands found before, by the overlap of boxes and of landmarks."""
    points = hand.points()[:, :2]
    for other in (other.points()[:, :2] for other in others):
        low, high = np.maximum(points.min(0), other.min(0)), np.minimum(points.max(0), other.max(0))
        smaller = min(np.prod(np.ptp(points, axis=0)), np.prod(np.ptp(other, axis=0)))
        size = min(np.ptp(points, axis=0).max(), np.ptp(other, axis=0).max())
        shared = np.prod(np.clip(high - low, 0, None)) > SHARED * smaller
        if shared or np.linalg.norm(points - other, axis=1).mean() < APART * size:
            return True
    return False
