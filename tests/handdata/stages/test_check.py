"""The last check of a row: remarks for people, and a stop where a published text would be wrong."""

import pytest

from handdata.recipe import CheckOptions
from handdata.stages.check import FinalChecks
from handdata.texts.checks import REMARKS


def final(text, rewrite="llm", hands=1, in_box=1.0, drafts=()):
    """Return the columns of one row as the last check gets them."""
    row = {
        "caption": "a man in a park",
        "gesture": "ok",
        "text": text,
        "rewrite": rewrite,
        "draft_checks": list(drafts),
    }
    row |= {"labels": ["ok"], "hand_landmarks": [[[0.5, 0.5, 0.0]] * 21] * hands, "landmarks_in_box": in_box}
    return {name: [value] for name, value in row.items()}


GOOD = "a man in a park making ok hand gesture"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (final(GOOD), []),
        (final(GOOD, drafts=["caption:phrase-missing"]), ["caption:phrase-missing"]),
        (final(GOOD, "template"), ["text:template"]),
        (final(GOOD, hands=0, in_box=0.0), ["image:no-hand"]),
        (final(GOOD, in_box=0.5), ["image:hand-outside-box"]),
        (final(GOOD, hands=2), ["image:more-hands"]),
    ],
)
def test_rows_worth_a_look_are_remarked_on(columns, expected):
    assert FinalChecks(CheckOptions())(columns) == {"checks": [expected], "reason": [None]}
    assert {name for name in expected if not name.startswith(("caption:", "draft:"))} <= set(REMARKS)


def test_a_final_text_that_fails_is_a_bug_and_stops_the_run():
    with pytest.raises(AssertionError, match="phrase-missing"):
        FinalChecks(CheckOptions())(final("a man in a park"))
