"""Decisions: appended, replayed in order, safe against an incomplete last line."""

import pytest

from handdata.errors import UserError
from handdata.rows.decisions import Decision, append, replay


def test_the_last_decision_about_an_image_counts(tmp_path):
    append(tmp_path, [Decision("accepted", image_id="a"), Decision("rejected", image_id="b")])
    append(tmp_path, [Decision("rejected", image_id="a", note="blurred"), Decision("accepted", image_id="b")])
    replayed = replay(tmp_path)
    assert (replayed.about("a", "s"), replayed.about("b", "s"), replayed.about("c", "s")) == (
        "rejected",
        "accepted",
        None,
    )


def test_a_dropped_image_or_person_stays_dropped(tmp_path):
    append(tmp_path, [Decision("dropped", image_id="a"), Decision("dropped", subject="s")])
    append(
        tmp_path,
        [Decision("accepted", image_id="a"), Decision("accepted", image_id="b"), Decision("accepted", subject="s")],
    )
    replayed = replay(tmp_path)
    assert replayed.about("a", "t") == "dropped"
    assert replayed.about("b", "s") == "dropped"


def test_a_rejected_person_may_have_an_accepted_image(tmp_path):
    append(tmp_path, [Decision("rejected", subject="s"), Decision("accepted", image_id="a")])
    replayed = replay(tmp_path)
    assert (replayed.about("a", "s"), replayed.about("b", "s")) == ("accepted", "rejected")
    append(tmp_path, [Decision("accepted", subject="s")])
    assert replay(tmp_path).about("b", "s") is None


def test_an_edited_text_is_valid_until_the_next_decision(tmp_path):
    append(tmp_path, [Decision("edited", image_id="a", text="a person making ok hand gesture – naïve")])
    assert replay(tmp_path).text("a") == "a person making ok hand gesture – naïve"
    append(tmp_path, [Decision("rejected", image_id="a")])
    assert replay(tmp_path).text("a") is None


def test_an_incomplete_last_line_is_ignored_and_overwritten(tmp_path):
    append(tmp_path, [Decision("rejected", image_id="a")])
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(path.read_bytes() + b'{"what": "rej')
    assert replay(tmp_path).about("a", "s") == "rejected"
    append(tmp_path, [Decision("dropped", image_id="b")])
    assert replay(tmp_path).about("b", "s") == "dropped"
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"what": "loved", "image_id": "a"}', '{"what": "accepted"}'])
def test_a_line_that_is_not_a_decision_is_named(tmp_path, line):
    (tmp_path / "decisions.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="line 1 is not a decision"):
        replay(tmp_path)


def test_incomplete_and_contradictory_decisions_are_refused(tmp_path):
    for decision, message in (
        (Decision("accepted"), "either an image id or a subject"),
        (Decision("edited", image_id="a"), "needs an image id and the new text"),
        (Decision("rejected", "a", "s"), "either an image id or a subject"),
    ):
        with pytest.raises(UserError, match=message):
            append(tmp_path, [decision])
    assert not (tmp_path / "decisions.jsonl").exists()


def test_no_file_means_no_decisions(tmp_path):
    assert replay(tmp_path).about("a", "s") is None
