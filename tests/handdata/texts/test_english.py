"""Words of captions: names of gestures, words about hands, stems."""

import pytest

from handdata.texts.english import about_hands, content, gestures_named, stem, tokenise


def test_of_two_gestures_that_overlap_the_longer_counts():
    (place,) = gestures_named(tokenise("a man with his middle finger up"))
    assert place[2] == {"middle_finger"}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man holding a cell phone up to his ear in a car", "holding cell phone up ear"),
        ("a woman with a cup of coffee in her left hand", "cup coffee left hand"),
        ("a man holding a woman in a car", "holding"),
        ("a man talking on a phone and smiling", "talking phone"),
        ("a girl with two fingers on her cheek under a palm tree", "two fingers cheek"),
        ("a man standing in front of a door", ""),
    ],
)
def test_words_about_hands_and_what_they_hold_are_found(caption, expected):
    tokens = tokenise(caption)
    about = about_hands(tokens)
    assert " ".join(tokens[place] for place in content(tokens) if place in about) == expected


def test_inflections_share_a_stem_and_persons_do_not():
    for forms in (
        "stand stands standing stood",
        "wear wears wearing wore worn",
        "wave waved waving",
        "sit sits sitting",
    ):
        assert len({stem(form) for form in forms.split()}) == 1, forms
    assert stem("man") != stem("men")
    assert stem("glasses") != stem("glass")
    assert stem("building") != stem("build")
