"""Decisions: several writers at once, files from elsewhere, texts with odd line ends, and lost lines."""

import json
import subprocess
import sys

import pytest

from handdata.builds import review
from handdata.errors import UserError
from handdata.gestures import gestures
from handdata.rows import decisions
from handdata.rows.decisions import FILE, Decision
from tests import ROOT
from tests.finished import finished_build

WRITER = """
import sys
from pathlib import Path
from handdata.rows.decisions import Decision, append
for number in range(250):
    append(Path(sys.argv[1]), [Decision("rejected", image_id=f"{sys.argv[2]}-{number}", note="x" * (number % 50))])
"""


def test_b5_two_processes_lose_no_line(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, name], cwd=ROOT) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert set(decisions.replay(tmp_path).images) == {f"{name}-{number}" for name in "ab" for number in range(250)}
    assert (tmp_path / FILE).read_bytes().count(b"\n") == 500


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return finished_build(tmp_path_factory.mktemp("b5") / "build", {"train": 2, "validation": 0, "test": 0})


@pytest.fixture
def ids(build):
    for path in build.glob("*decisions*"):
        path.unlink()
    return [row["image_id"] for row in review.read_rows(build)]


def exported(tmp_path, *lines):
    path = tmp_path / "exported.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"what": "dropped"}, "a decision is one of accepted, rejected, edited, not 'dropped'"),
        ({"what": ["accepted"]}, "a decision is one of"),
        ({"what": "accepted", "image_id": 7}, "the value of 'image_id' in a decision is not text"),
        ({"what": "edited"}, "needs an image id and the new text"),
        ({"what": "edited", "text": ["a man"]}, "the value of 'text' in a decision is not text"),
        ({"what": "edited", "text": "a man \ud800"}, "the value of 'text' in a decision is not text"),
        ("[" * 100_000 + "\n", "is not a decision that the review page exported"),
        ("null\n", "is not a decision that the review page exported"),
        ({"what": "rejected", "image_id": "nobody"}, "decides about nobody, which is not in"),
    ],
)
def test_b5_apply_refuses_a_foreign_line_and_names_it(build, ids, tmp_path, entry, words):
    entry = {"image_id": ids[1], **entry} if isinstance(entry, dict) else entry
    with pytest.raises(UserError, match=rf"--apply .*exported\.jsonl, line 3.*{words}"):
        review.apply_decisions(build, exported(tmp_path, {"what": "accepted", "image_id": ids[0]}, "\n", entry))
    assert not (build / FILE).exists()


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_b5_apply_refuses_another_encoding(build, ids, tmp_path, encoding):
    path = tmp_path / "exported.jsonl"
    path.write_bytes(json.dumps({"what": "rejected", "image_id": "ä"}, ensure_ascii=False).encode(encoding))
    with pytest.raises(UserError, match=r"--apply .*exported\.jsonl is not UTF-8 text"):
        review.apply_decisions(build, path)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x1e"])
def test_b5_an_edited_text_may_hold_other_line_ends(build, ids, tmp_path, mark):
    text = f"a tall person in a hat{mark} {gestures()['call'].phrase} outside."
    path = tmp_path / "exported.jsonl"
    path.write_text(json.dumps({"what": "edited", "image_id": ids[0], "text": text}, ensure_ascii=False) + "\n")
    assert review.apply_decisions(build, path).new == 1
    assert decisions.replay(build).text(ids[0]) == text


@pytest.mark.parametrize("loss", ["emptied", "missing", "last line", "one letter"])
def test_b5_lost_decisions_are_noticed_until_a_person_accepts_that(tmp_path, loss):
    decisions.append(tmp_path, [Decision("dropped", image_id="a"), Decision("edited", image_id="b", text="a hand")])
    path, whole = tmp_path / FILE, (tmp_path / FILE).read_bytes()
    changed = {
        "emptied": b"",
        "last line": whole[: whole.index(b"\n") + 1],
        "one letter": whole.replace(b"a hand", b"a band"),
    }
    path.write_bytes(changed[loss]) if loss in changed else path.unlink()
    for action in (decisions.replay, lambda build: decisions.append(build, [Decision("accepted", image_id="c")])):
        with pytest.raises(UserError, match=r"restore it from a copy, or delete .*\.decisions\.json to accept"):
            action(tmp_path)
    (tmp_path / ".decisions.json").unlink()
    decisions.append(tmp_path, [Decision("accepted", image_id="c")])
    assert decisions.replay(tmp_path).about("c", "") == "accepted"


def test_b5_a_line_written_by_hand_without_a_newline_is_kept(tmp_path):
    decisions.append(tmp_path, [Decision("rejected", image_id="a")])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"what": "dropped", "subject": "s"}')
    decisions.append(tmp_path, [Decision("accepted", image_id="b")])
    assert decisions.replay(tmp_path).about("x", "s") == "dropped" and len(decisions.replay(tmp_path).images) == 2


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{\x00", b"[]\n", b'{"what": "rejected", "image_id": 5}\n', b"\x00\n", b"[" * 99_999 + b"\n"]
)
def test_b5_a_damaged_file_is_one_sentence(tmp_path, content):
    (tmp_path / FILE).write_bytes(content + b'{"what": "rejected", "image_id": "a"}\n')
    with pytest.raises(UserError, match=r"decisions\.jsonl, line 1 is not a decision: fix or remove that line"):
        decisions.replay(tmp_path)
