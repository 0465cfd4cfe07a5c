"""The hands of one picture, judged and drawn on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from handdata.errors import UserError
from handdata.vision.pixels import UnreadableImage, open_image, to_rgb, upright
from handtrain.generation.poses import pose_of_photograph
from handtrain.judging.anatomy import CAVEAT
from handtrain.judging.judge import Judge, default_anatomy
from handtrain.judging.rows import JudgedHand

HEAD = ["hand", "gesture", "left or right", "p_wrong (experimental)", "fingers", "most likely flaw", "score"]
NOTE = f"p_wrong is the probability that a hand is drawn wrong. It is experimental: {CAVEAT}"
_CHAINS = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (5, 9, 10, 11, 12), (9, 13, 14, 15, 16), (13, 17, 18, 19, 20), (0, 17))
_LEAST = 512  # px, the longer side of the picture with its landmarks


def judged(path: str | Path) -> tuple[Image.Image, list[list[Any]]]:
    """Return a picture with its hands drawn on it, and a row as in `HEAD` for each hand.

    Raises `UserError` for a file that cannot be read as an image.
    """
    try:
        with open_image(Path(path)) as opened:
            image = upright(opened)
    except (UnreadableImage, OSError) as error:
        raise UserError(f"the picture cannot be read: {error}") from None
    with Judge(default_anatomy()) as judge:
        hands = judge.hands(image)
    return drawn(image, hands), [row(number, hand) for number, hand in enumerate(hands, 1)]


def row(number: int, hand: JudgedHand) -> list[Any]:
    """Return the judgement of a hand as texts and numbers."""
    wrong = "" if hand.p_wrong is None else f"{hand.p_wrong:.2f}"
    return [number, hand.gesture, hand.handedness, wrong, hand.fingers or "", hand.flaw or "", f"{hand.hand.score:.2f}"]


def drawn(image: Image.Image, hands: Sequence[JudgedHand]) -> Image.Image:
    """Return an image, enlarged if it is small, with box, number and landmarks of each hand."""
    picture = enlarged(image)
    factor = picture.width / image.width
    pen, width = ImageDraw.Draw(picture), max(2, round(max(picture.size) / 300))
    for number, hand in enumerate(hands, 1):
        points = [(float(x) * factor, float(y) * factor) for x, y, *_ in hand.hand.points()]
        colour = "#d33" if (hand.p_wrong or 0) > 0.5 else "#2a8"
        _skeleton(pen, points, colour, width)
        left, top, right, bottom = (value * factor for value in hand.box())
        pen.rectangle((left, top, right, bottom), outline=colour, width=width)
        pen.text((left + 2 * width, top + width), str(number), colour, font_size=max(14, 8 * width))
    return picture


def posed(path: str | Path) -> Image.Image:
    """Return the central square of a photograph with the joints of the hand whose pose is taken from it.

    Raises `UserError` for a file that cannot be read as an image, and without a hand.
    """
    pose, square = pose_of_photograph(Path(path))
    picture = enlarged(square)
    points = [(float(x) * picture.width, float(y) * picture.height) for x, y, _ in pose[:63].reshape(21, 3)]
    _skeleton(ImageDraw.Draw(picture), points, "#2a8", max(2, round(picture.width / 300)))
    return picture


def _skeleton(pen: Any, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
    for chain in _CHAINS:
        pen.line([points[joint] for joint in chain], colour, width)
    for x, y in points:
        pen.ellipse((x - width, y - width, x + width, y + width), "white", colour)


def enlarged(image: Image.Image) -> Image.Image:
    """Return a copy of an image, whose longer side has at least 512 px."""
    factor = max(1.0, _LEAST / max(image.size))
    size = round(image.width * factor), round(image.height * factor)
    return to_rgb(image).resize(size, Image.Resampling.BICUBIC)
