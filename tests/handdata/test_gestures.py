"""The 33 gestures and the words for them."""

import pytest

from handdata.errors import UserError
from handdata.gestures import PAPER_GESTURES, gestures, require

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
