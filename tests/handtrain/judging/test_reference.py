from collections import Counter

import numpy as np
import pytest

from handdata import assets
from handdata.errors import UserError
from handdata.shipped import resource
from handdata.vision.landmarks import decode
from handdata.world.skeleton import GESTURES
from handtrain.evaluation.hands import DETECTION, Hand, find, hand_finder
from handtrain.judging import reference
from tests.photos import needs_photos, photo_bytes, photos


def test_the_shipped_file_is_small_and_knows_every_drawn_gesture():
    assert resource(reference.FILE).stat().st_size < 200_000
    counts = Counter(reference.gesture_reference().names.tolist())
    assert set(counts) == set(GESTURES) and min(counts.values()) >= 30


def test_features_do_not_depend_on_the_size_and_the_side_of_a_hand():
    with np.load(resource(reference.FILE)) as file:
        points = file["hands"][0].astype(float).reshape(21, 3)
    right = Hand((points * 0.1 + 0.5) * (1, 1, 1), False, 0.9, 300, 300)
    left = Hand((points * (-0.05, 0.05, 0.05) + 0.5) * (1, 2, 1), True, 0.9, 300, 150)
    first, second = (reference.features(reference.normalised(hand).reshape(1, 63)) for hand in (right, left))
    assert first == pytest.approx(second, abs=1e-6)
    assert reference.gestures_named([right]) == reference.gestures_named([left])


def test_most_drawn_hands_are_named_right_by_the_others_and_noise_is_unknown():
    judge = reference.gesture_reference()
    rng = np.random.default_rng(0)
    kept = rng.permutation(len(judge.hands))
    known, unseen = kept[100:], kept[:100]
    others = type(judge)(judge.hands[known], judge.names[known], judge.threshold)
    assert (others.name(judge.hands[unseen]) == judge.names[unseen]).mean() > 0.9
    noise = [Hand(rng.uniform(0, 1, (21, 3)), False, 0.9, 100, 100) for _ in range(20)]
    assert reference.gestures_named(noise).count("none") >= 18
    assert reference.gestures_named([]) == []


@needs_photos
def test_the_gestures_of_photographs_are_named_by_drawn_hands():
    try:
        assets.path("hand-landmarker")
    except UserError as error:
        pytest.skip(str(error))
    rows = [row for row in photos() if row["gesture"] in GESTURES]
    with hand_finder(DETECTION) as finder:
        named = [(row["gesture"], reference.gestures_named(find(finder, decode(photo_bytes(row))))) for row in rows]
    assert sum(gesture in names for gesture, names in named) >= 16, named
