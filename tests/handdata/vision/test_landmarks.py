"""Detection of hands: the gesture's hand by its box, small photographs, handedness."""

import io

import numpy as np
import pytest
from PIL import Image

from handdata.vision.landmarks import HandFinder, decode, gesture_hand
from tests.photos import needs_photos, photo_bytes, photos


def square(x, y, size):
    """Return a hand of 21 points on the outline and inside of a square."""
    side = np.linspace(0, size, 21)
    return np.stack([x + side, y + np.roll(side, 7), np.zeros(21)], axis=1)


def test_the_hand_that_overlaps_most_with_a_box_of_the_gesture_makes_it():
    hands = np.array([square(0.1, 0.1, 0.2), square(0.6, 0.6, 0.2)])
    boxes, labels = [[0.1, 0.1, 0.2, 0.2], [0.58, 0.58, 0.24, 0.24]], ["no_gesture", "ok"]
    assert gesture_hand(hands, boxes, labels, "ok") == (1, 1.0)
    assert gesture_hand(hands, boxes, ["ok", "no_gesture"], "ok") == (0, 1.0)
    assert gesture_hand(hands, boxes, ["ok", "ok"], "ok")[0] == 0, "the tighter box"


def test_no_hand_no_box_or_no_overlap_gives_minus_one():
    hands = np.array([square(0.1, 0.1, 0.2)])
    assert gesture_hand(np.zeros((0, 21, 3)), [[0, 0, 1, 1]], ["ok"], "ok") == (-1, 0.0)
    assert gesture_hand(hands, [], [], "ok") == (-1, 0.0)
    assert gesture_hand(hands, [[0.5, 0.5, 0.1, 0.1]], ["ok"], "ok") == (-1, 0.0)
    assert gesture_hand(hands, [[0.1, 0.1, 0.2, 0.2]], ["like"], "ok") == (-1, 0.0)


def test_the_share_of_landmarks_inside_the_box_is_counted():
    hands = np.array([square(0.0, 0.0, 1.0)])
    _, share = gesture_hand(hands, [[0.0, 0.0, 0.5, 1.0]], ["ok"], "ok")
    assert share == pytest.approx(11 / 21)


@needs_photos
def test_a_photograph_of_64_px_is_enlarged_and_its_hand_detected():
    row = next(row for row in photos() if row["gesture"] == "palm")
    image = Image.open(io.BytesIO(photo_bytes(row)))
    small = np.asarray(image.resize((64, 64 * image.height // image.width)))
    with HandFinder() as finder, HandFinder(min_side=1) as plain:
        hands = finder.find(small)
        again = finder.find(small)
        assert len(hands.landmarks) == 1
        large = plain.find(np.asarray(image)).landmarks
    assert np.array_equal(hands.landmarks, again.landmarks)
    assert np.abs(hands.landmarks[0, :, :2] - large[0, :, :2]).max() < 0.08, "fractions of the image, whatever its size"


@needs_photos
def test_handedness_is_the_persons_own_hand_in_an_unmirrored_photograph():
    row = next(row for row in photos() if row["gesture"] == "palm")
    image = decode(photo_bytes(row))
    with HandFinder() as finder:
        sides = {finder.find(image).handedness[0], finder.find(image[:, ::-1]).handedness[0]}
    assert sides == {"Left", "Right"}
