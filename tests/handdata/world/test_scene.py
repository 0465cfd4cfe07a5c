"""The truth about a picture agrees with its pixels."""

import itertools

import numpy as np
import pytest

from handdata.gestures import gestures
from handdata.world import backdrop
from handdata.world.scene import PLACES, SKINS, SLEEVES, describe, draw_person, draw_picture
from handdata.world.skeleton import GESTURES
from tests import ROOT

SIZE = 48


def picture(gesture, seed, second="", malformed=False):
    rng = np.random.default_rng([seed, GESTURES.index(gesture)])
    return draw_picture(draw_person(rng), gesture, second, SIZE, rng, malformed)


def every_caption():
    rng = np.random.default_rng(0)
    backgrounds = [(kind, detail) for kind, details in backdrop.DETAILS.items() for detail in details]
    arms = [("", True), ("", False), *((sleeve, False) for sleeve in SLEEVES)]
    hands = ("none", "resting", "same")
    for skin, (sleeve, bare), (kind, detail), place in itertools.product(SKINS, arms, backgrounds, PLACES):
        for colour, hand in itertools.product(("white", "blue"), hands):
            attributes = {"skin": skin, "sleeve": sleeve, "bare_arm": bare, "background": kind, "place": place}
            yield describe(
                {**attributes, "background_detail": detail, "background_colour": colour, "second_hand": hand}, rng
            )


def test_no_caption_holds_a_word_that_names_a_gesture():
    names = {word.lower() for gesture in gestures().values() for word in (*gesture.words, gesture.phrase)}
    names |= {name.replace("_", " ") for name in GESTURES}
    for caption in every_caption():
        padded = f" {caption.replace(',', ' ,')} "
        assert not [name for name in names if f" {name} " in padded], caption


def test_the_page_on_the_mini_world_lists_every_word_of_the_captions():
    page = (ROOT / "docs/mini_world.md").read_text()
    details = [detail for details in backdrop.DETAILS.values() for detail in details]
    for word in (*SKINS, *SLEEVES, *PLACES, *backdrop.COLOURS, *backdrop.DETAILS, *details):
        assert word in page, word


def test_a_caption_mentions_every_visible_attribute():
    seen = picture("palm", 3, "no_gesture")
    words = seen.caption
    assert f"{seen.attributes['skin']} skin" in words
    assert seen.attributes["background_colour"] in words
    assert seen.attributes["background_detail"] in words
    assert seen.attributes["place"] in words
    assert "the other hand resting" in words
    if seen.attributes["sleeve"]:
        assert f"{seen.attributes['sleeve']} sleeve" in words


@pytest.mark.parametrize("gesture", GESTURES)
def test_the_viewer_sees_the_side_that_the_gesture_demands(gesture):
    facing = gestures()[gesture].facing
    for seed in range(2):
        hand = picture(gesture, seed).hands[0]
        joints = np.array(hand["joints_3d"])
        across, up = joints[17] - joints[5], joints[9] - joints[0]
        out = np.cross(across, up) * (1 if hand["side"] == "left" else -1)  # out of the palm
        towards = out[2] / np.linalg.norm(out)
        assert {"palm": towards > 0.6, "back": towards < -0.6, "side": abs(towards) < 0.8, "any": True}[facing]


def test_the_hand_is_at_the_place_in_the_caption():
    for seed in range(6):
        seen = picture("four", seed)
        low, high = PLACES[seen.attributes["place"]]
        joints = np.array(seen.hands[0]["joints_2d"])
        middle = (joints[:, 0].min() + joints[:, 0].max()) / 2
        assert low - 0.05 < middle < high + 0.05


def test_the_true_joints_are_on_the_hand_of_the_named_skin():
    for seed in range(5):
        seen = picture("palm", seed)
        pixels = np.asarray(seen.image, float)
        tone = np.array(SKINS[seen.attributes["skin"]], float)
        joints = np.array(seen.hands[0]["joints_2d"])[[0, 5, 9, 13, 17, 10, 14]] * SIZE
        mean_colour = pixels[joints[:, 1].astype(int), joints[:, 0].astype(int)].mean(axis=0)
        hue = mean_colour / mean_colour.sum() - tone / tone.sum()
        assert np.abs(hue).max() < 0.08, (seen.attributes, mean_colour)


def test_the_sleeve_that_is_named_is_the_one_that_is_seen():
    named = [seen for seen in (picture("stop", seed) for seed in range(8)) if seen.attributes["sleeve"]]
    assert len(named) >= 3
    for seen in named:
        pixels = np.asarray(seen.image, float).reshape(-1, 3)
        share = {
            name: (np.abs(_hue(pixels) - _hue(np.array([colour], float))).max(axis=1) < 0.06).mean()
            for name, colour in SLEEVES.items()
        }
        assert share[seen.attributes["sleeve"]] > 0.01, (seen.attributes, share)


def test_boxes_hold_their_joints():
    for gesture in ("like", "palm", "mute"):
        for hand in picture(gesture, 1, "no_gesture").hands:
            x, y, w, h = hand["box"]
            joints = np.array(hand["joints_2d"])
            assert (joints >= (x, y)).all() and (joints <= (x + w, y + h)).all()


def test_a_malformed_picture_names_its_flaws_and_a_whole_one_has_none():
    assert picture("palm", 0, malformed=True).hands[0]["flaws"]
    assert picture("palm", 0).hands[0]["flaws"] == []


def _hue(pixels):
    return pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
