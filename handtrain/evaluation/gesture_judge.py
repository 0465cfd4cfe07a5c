"""Hands whose gesture is known: those that make it in a dataset's training images, seen as the generated ones are.

They are found anew, in images prepared like the generated ones, and not taken from the dataset's columns: a hand of
20 pixels is seen less surely than the same hand at 200, and a generator must not be blamed for that.
"""

import numpy as np

from handdata import assets
from handdata.files import sha256_of
from handdata.huggingface import HubName, Place, at_commit, require_folder
from handtrain.data.dataset import Photographs, load
from handtrain.evaluation import features, hands, metrics
from handtrain.evaluation.hands import Hand
from handtrain.evaluation.image_sets import ImageSet, Member, Preparation
from handtrain.method.gesture import hand_in_box, normalised
from handtrain.tensor_cache import TensorCache


def known_hands(place: Place, prepare: Preparation, cache: TensorCache, option: str) -> dict[str, list[Hand]]:
    """Return the training hands of every gesture of a dataset; an image without a found hand in its box has none.

    Raises `UserError` where the dataset or MediaPipe's model file is missing.
    """
    sha256 = sha256_of(assets.path(hands.MODEL))
    place = at_commit(place, "dataset", option) if isinstance(place, HubName) else require_folder(place, option)
    found = {}
    for gesture in _gestures(place):
        images = _images(load(place, gesture, "train", option=option))
        rows = features.found_hands(images, prepare, hands.DETECTION, sha256, cache)
        found[gesture] = _making_it(images, prepare, rows)
    return found


def gesture_judge(known: dict[str, list[Hand]], gesture: str) -> metrics.GestureJudge | str:
    """Return what tells gestures apart, learnt from known hands; or why there is none."""
    points = [normalised(hand).ravel() for of_gesture in known.values() for hand in of_gesture]  # type: ignore[arg-type]
    names = [name for name, of_gesture in known.items() for _ in of_gesture]
    if gesture not in names or len(points) <= metrics.NEIGHBOURS:
        return f"no training hands of {gesture} were found, or fewer hands than neighbours are asked for"
    return metrics.GestureJudge.fit(np.array(points), np.array(names))


def _gestures(place: Place) -> list[str]:
    """Return a dataset's configurations but that of all gestures together."""
    from datasets import get_dataset_config_names

    if isinstance(place, HubName):
        names = get_dataset_config_names(place.repo, revision=place.revision)
    else:
        names = get_dataset_config_names(str(place))
    return [name for name in names if name != "all"]


def _images(photographs: Photographs) -> ImageSet:
    """Return a split's images as its rows describe them: `handdata build` has looked through them."""
    rows = {row.image_id: index for index, row in enumerate(photographs.rows)}
    members = [
        Member(row.image_id, row.sha256, row.width, row.height, black=False, text=row.text, box=row.box)
        for row in photographs.rows
    ]
    return ImageSet(f"{photographs.place}:train", members, lambda one: photographs.image(rows[one.name]))


def _making_it(images: ImageSet, prepare: Preparation, rows: features.Rows) -> list[Hand]:
    chosen = []
    for one, found in zip(images.members, rows.hands(), strict=True):
        if one.box and found:
            box = prepare.box(one)
            number = hand_in_box([hand.landmarks for hand in found], box)
            chosen += [found[number]] if number >= 0 else []
    return chosen
