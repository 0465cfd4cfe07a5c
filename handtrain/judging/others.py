"""Scores of hands by other judges (`raters.judges`), on the crops that the page for people shows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from handdata.errors import UserError
from handdata.progress import bar
from handdata.vision.pixels import UnreadableImage, open_image, upright
from handtrain.judging.pictures import Folder
from handtrain.judging.rows import JudgedImage
from handtrain.raters.judges import Judge, make_judge, scores
from handtrain.raters.people import crop


def make_judges(texts: Sequence[str]) -> dict[str, Judge]:
    """Return the judges by name. Raises `UserError` for one that cannot be made and for a name that is given twice."""
    judges: dict[str, Judge] = {}
    for text in texts:
        name = text.partition(":")[0]
        if name in judges:
            raise UserError(f"--judge names {name!r} twice: its scores have one column, so name it once")
        judges[name] = make_judge(text)
    return judges


def scored(images: Sequence[JudgedImage], folders: Sequence[Folder], name: str, judge: Judge) -> list[JudgedImage]:
    """Return the images with a judge's score of every hand, and close the judge.

    Raises `UserError` if an image has changed since its hands were found, and for a score that is not a number.
    """
    try:
        found = iter(scores(judge, _crops(images, folders, name)))
    finally:
        getattr(judge, "close", lambda: None)()
    return [
        replace(image, hands=[replace(hand, others={**hand.others, name: next(found)}) for hand in image.hands])
        for image in images
    ]


def _crops(images: Sequence[JudgedImage], folders: Sequence[Folder], name: str) -> Iterator[np.ndarray]:
    """Yield a crop (height, width, 3) of uint8 around every hand, in the order of the images."""
    paths = [{picture.name: picture.path for picture in folder.pictures} for folder in folders]
    with bar(total=sum(len(image.hands) for image in images), desc=f"judge {name}", unit="hand") as shown:
        for image in (image for image in images if image.hands):
            try:
                with open_image(paths[image.folder][image.name]) as opened:
                    whole = upright(opened)
            except (UnreadableImage, OSError):
                raise UserError(f"{image.name} was changed while it was judged: run the same command again") from None
            for hand in image.hands:
                yield np.asarray(crop(whole, hand.box()))
                shown.update()
