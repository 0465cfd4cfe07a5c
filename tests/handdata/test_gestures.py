"""The 33 gestures and the words for them."""

import pytest

from handdata.errors import UserError
from handdata.gestures import PAPER_GESTURES, Gesture, also, gestures, require, require_own
from handdata.recipe import Recipe, dump, load, override
from handdata.texts.checks import failures
from handdata.texts.template import splice

# HaGRIDv2-1M's list, as its authors publish it
HAGRID = (
    "call dislike fist four grabbing grip hand_heart hand_heart2 holy like little_finger middle_finger mute ok one "
    "palm peace peace_inverted point rock stop stop_inverted take_picture three three2 three3 three_gun thumb_index "
    "thumb_index2 timeout two_up two_up_inverted xsign"
).split()


def test_the_gestures_are_hagrids_33_in_alphabetical_order():
    assert list(gestures()) == HAGRID
    assert set(PAPER_GESTURES) < set(HAGRID)


def test_no_two_gestures_share_a_phrase_or_a_word():
    words = [word for gesture in gestures().values() for word in (gesture.phrase, *gesture.words)]
    assert len(words) == len(set(words))


def test_the_papers_phrase_for_call_is_kept_to_the_letter():
    assert gestures()["call"].phrase == "making phone call hand gesture"


def test_two_handed_gestures_are_marked():
    two = {name for name, gesture in gestures().items() if gesture.hands == 2}
    assert two == {"hand_heart", "hand_heart2", "holy", "take_picture", "thumb_index2", "timeout", "xsign"}
    assert all(gesture.facing in ("palm", "back", "side", "any") for gesture in gestures().values())


def test_an_unknown_gesture_is_reported_with_the_nearest_one():
    require(("call", "ok"))
    with pytest.raises(UserError, match=r"unknown gesture 'plam': did you mean 'palm'"):
        require(("call", "plam"))


VULCAN = Gesture("making vulcan salute hand gesture", ("vulcan salute", "live long"))


def test_a_block_knows_a_recipes_own_gesture_and_forgets_it_at_its_end():
    with also({"vulcan": VULCAN}):
        assert gestures()["vulcan"] is VULCAN and list(gestures())[:33] == HAGRID
    assert "vulcan" not in gestures()


def test_the_checks_know_the_words_of_an_own_gesture():
    with also({"vulcan": VULCAN}):
        text = splice("a man in a red shirt giving a vulcan salute", "vulcan")
        assert text == "a man in a red shirt making vulcan salute hand gesture"
        assert "other-gesture" in failures("a man", "call", "a man making phone call hand gesture, vulcan salute")
    assert "other-gesture" not in failures("a man", "call", "a man making phone call hand gesture, vulcan salute")


def test_a_recipe_keeps_its_own_gesture_through_toml(tmp_path):
    recipe = override(Recipe("mine"), gesture={"vulcan": {"phrase": VULCAN.phrase}}, select={"gestures": ("vulcan",)})
    (tmp_path / "recipe.toml").write_text(dump(recipe))
    assert load(tmp_path / "recipe.toml") == recipe and recipe.gesture["vulcan"] == Gesture(VULCAN.phrase)
    assert "gesture.vulcan" in dump(recipe) and "[gesture]" not in dump(Recipe("mine"))


def test_an_unknown_gesture_without_a_phrase_is_refused():
    with pytest.raises(UserError, match=r"unknown gesture 'vulcan'.*\[gesture.NAME\] with a phrase"):
        override(Recipe("mine"), select={"gestures": ("vulcan",)})
    with pytest.raises(UserError, match="lacks the key 'phrase'"):
        override(Recipe("mine"), gesture={"vulcan": {}})


@pytest.mark.parametrize(
    ("name", "gesture", "fault"),
    [
        ("call", VULCAN, "one of HaGRID's"),
        ("../call", VULCAN, "small letters"),
        ("all", VULCAN, "small letters"),
        ("vulcan", Gesture(""), "the phrase is up to 80"),
        ("vulcan", Gesture('making "vulcan" gesture'), "the phrase is up to 80"),
        ("vulcan", Gesture("making phone call hand gesture"), "is the phrase of call"),
        ("vulcan", Gesture("making vulcan gesture", hands=3), "must be 1 or 2"),
    ],
)
def test_an_own_gesture_that_cannot_be_used_is_refused(name, gesture, fault):
    with pytest.raises(UserError, match=fault):
        require_own({name: gesture})
