"""The hand that makes the gesture is the one that agrees with those of the other photographs."""

import numpy as np
import pytest

from handdata.photos.hands import AGREES, FEWEST, agreement, box_of, distances_to
from handdata.recipe import RenderOptions
from handdata.world.gesture_file import gesture_files
from handdata.world.placement import Place, hold_hand
from handdata.world.skeleton import person_shape

_FILE = gesture_files(RenderOptions(gesture_file=("vulcan",)))["vulcan"]


def drawn(gesture, number, idle=False):
    """Return a drawn hand's true joints (21, 2) in fractions of a square picture."""
    rng = np.random.default_rng([number, sum(map(ord, gesture))])
    side = str(rng.choice(["left", "right"]))
    place = Place(0.84 if idle else 0.5, 256, idle)
    hand = hold_hand(person_shape(rng), gesture, side, True, place, rng, drawn=_FILE if gesture == "vulcan" else None)
    return hand.camera.project(hand.joints) / 256


def folder(gesture, count, idle_every=0):
    """Return photographs as arrays (hands, 21, 2); every n-th has an idle hand, which comes first."""
    return [
        np.array([*([drawn("no_gesture", n, idle=True)] if idle_every and n % idle_every == 0 else []),
                  drawn(gesture, n)])
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("gesture", ["vulcan", "fist", "palm", "rock"])
def test_an_idle_second_hand_is_not_the_gestures(gesture):
    found = agreement(folder(gesture, 30, idle_every=2))
    right = [hand == (1 if number % 2 == 0 else 0) for number, hand in enumerate(found.chosen)]
    assert sum(right) >= 29
    assert found.compared and not found.other and sum(found.agrees) >= 29


def test_another_gesture_of_the_same_number_is_noticed():
    found = agreement(folder("vulcan", 15) + folder("fist", 15))
    assert len(found.other) >= 13
    assert set(found.other) <= set(range(15)) or set(found.other) <= set(range(15, 30))


def test_single_photographs_of_another_gesture_differ_and_are_no_group():
    found = agreement([*folder("rock", 20), drawn("palm", 50)[None], drawn("fist", 51)[None]])
    assert [number for number, agrees in enumerate(found.agrees) if not agrees] == [20, 21]
    assert found.other == []


def test_with_few_photographs_the_largest_hand_is_chosen():
    found = agreement(folder("fist", FEWEST - 1, idle_every=1))
    assert found.chosen == [1] * (FEWEST - 1) and not found.compared and all(found.agrees)


def test_photographs_without_hands_have_none():
    found = agreement([np.zeros((0, 21, 2)), *folder("fist", 5)])
    assert found.chosen[0] == -1 and not found.agrees[0] and found.chosen[1:] == [0] * 5


def test_the_distance_does_not_depend_on_place_size_mirror_and_a_lean_of_up_to_30_degrees():
    hand = drawn("rock", 1)
    angle = np.radians(25)
    turned = hand @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    changed = np.stack([hand * 0.2 + 3, hand * [-1, 1], turned, hand @ np.array([[0.0, 1.0], [-1.0, 0.0]])])
    reference = hand - hand.mean(axis=0)
    reference /= np.sqrt((reference**2).sum(-1).mean())
    distances = distances_to(changed, reference)[0]
    assert np.allclose(distances[:3], 0, atol=1e-6) and distances[3] > AGREES


def test_a_box_has_the_margin_in_pixels_on_all_sides_and_stays_in_the_image():
    hand = np.array([[0.4, 0.2], [1.2, 0.6]])  # of an image twice as wide as high
    assert np.allclose(box_of(hand, 2.0, 0.1), [0.16, 0.12, 0.48, 0.56])
    assert np.allclose(box_of(np.array([[0.0, 0.0], [2.0, 1.0]]), 2.0, 0.1), [0, 0, 1, 1])
