"""Classify gestures by the hands in a dataset's training images, whose gesture is known.

Their landmarks are detected in images prepared like the generated ones, and not read from the dataset's columns: a
hand of 20 pixels is detected less precisely than the same hand at 200, which is not an error of the generator.
"""

from collections.abc import Sequence

import numpy as np

from handdata import assets
from handdata.files import sha256_of
from handdata.huggingface import Place
from handdata.rows.published import open_published
from handtrain.data.dataset import Photographs, gestures_of, load
from handtrain.evaluation import features, hands, metrics
from handtrain.evaluation.hands import Hand
from handtrain.evaluation.image_sets import ImageSet, Member, Preparation
from handtrain.method.gesture import hand_in_box, normalised
from handtrain.tensor_cache import TensorCache


def known_hands(place: Place, prepare: Preparation, cache: TensorCache, option: str) -> dict[str, list[Hand]]:
    """Return the training hands of every gesture of a dataset: at most one per image, which is in the annotated box.

    Raises `UserError` where the dataset or MediaPipe's model file is missing.
    """
    sha256 = sha256_of(assets.path(hands.MODEL))
    place = open_published(place, option).place  # one commit for all gestures
    known = {}
    with hands.hand_finder(hands.DETECTION) as finder:
        extractor = features.hand_extractor(finder, hands.DETECTION, sha256)
        for gesture in gestures_of(place, option):
            images = _images(load(place, gesture, "train", option=option))
            rows = features.extract(images, prepare, extractor, cache)
            known[gesture] = _in_box(images, prepare, rows)
    return known


def gesture_judge(known: dict[str, list[Hand]], gesture: str) -> metrics.GestureJudge | str:
    """Return a judge fitted to known hands, or the reason why that is impossible."""
    points = [normalised(hand).ravel() for of_gesture in known.values() for hand in of_gesture]  # type: ignore[arg-type]
    names = [name for name, of_gesture in known.items() for _ in of_gesture]
    if gesture not in names or len(points) <= metrics.NEIGHBOURS:
        return f"no training hands of {gesture} were found, or no more than {metrics.NEIGHBOURS} of all gestures"
    return metrics.GestureJudge.fit(np.array(points), np.array(names))


def named(of_image: Sequence[Hand], judge: metrics.GestureJudge) -> list[str]:
    """Return the name of each hand's gesture, `none` for an unknown one."""
    points = np.array([normalised(hand) for hand in of_image]).reshape(-1, 63)  # type: ignore[arg-type]
    return [str(name) for name in judge.name(points)]


def _images(photographs: Photographs) -> ImageSet:
    """Return a split's images as its rows describe them: `handdata build` has decoded each of them."""
    rows = {row.image_id: index for index, row in enumerate(photographs.rows)}
    members = [
        Member(row.image_id, row.sha256, row.width, row.height, black=False, text=row.text, box=row.box)
        for row in photographs.rows
    ]
    return ImageSet(f"{photographs.place}:train", members, lambda member: photographs.image(rows[member.name]))


def _in_box(images: ImageSet, prepare: Preparation, rows: features.Rows) -> list[Hand]:
    """Return from every image the hand that overlaps the annotated box."""
    chosen = []
    for member, of_image in zip(images.members, rows.hands(), strict=True):
        if member.box and of_image:
            index = hand_in_box([hand.landmarks for hand in of_image], prepare.box(member))
            chosen += [of_image[index]] if index >= 0 else []
    return chosen
