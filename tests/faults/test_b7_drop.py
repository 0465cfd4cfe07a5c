"""After `drop`, a build keeps only what keeps the person out; other places that hold the images are named."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from handdata.builds.build import Build
from handdata.builds.status import text
from handdata.cli import COMMANDS
from handdata.cli.program import main
from handdata.errors import UserError
from handdata.gestures import gestures
from handdata.rows import decisions
from handdata.rows.decisions import FILE, Decision
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import MANIFEST
from handdata.rows.shards import read_table, shard_path
from handdata.sources.journal import journal_path
from handdata.stages import assemble
from tests import hagrid
from tests.finished import QUIET, finished_build


@pytest.fixture(scope="module")
def fetched(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("b7")
    world = hagrid.world(train=5)
    world.write_annotations(folder / "annotations.zip")
    world.write_images(folder / "images.zip")
    source = {"annotations": str(folder / "annotations.zip"), "images": str(folder / "images.zip")}
    Build.start(hagrid.write_recipe(folder, source, train=2), folder / "build").run(until="facts", progress=False)
    return folder / "build"


@pytest.fixture
def build(fetched, tmp_path) -> Path:
    return Path(shutil.copytree(fetched, tmp_path / "build"))


def traces(build: Path, *words: str) -> set[str]:
    """Return the files of a build in which a word occurs, Parquet files decoded."""
    found = set()
    for path in (path for path in build.rglob("*") if path.is_file()):
        rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_bytes().decode("latin-1")
        found |= {path.name for word in words if word in str(rows)}
    return found


@pytest.mark.parametrize("by", ["image_id", "subject"])
def test_b7_hashes_members_and_boxes_are_gone_and_the_row_stays_out(build, by):
    rows = read_manifest(build).to_pylist()
    row = rows[3]
    gone = {number for number, other in enumerate(rows) if other[by] == row[by]}
    sha256 = read_table(shard_path(build, "fetch", 0)).to_pylist()[3]["sha256"]
    Build.open(build).drop(**{by: row[by]}, note="by letter", progress=False)
    assert traces(build, sha256, row["member"]) == set()
    if by == "subject":
        assert traces(build, row["subject"]) == {FILE}
    after = read_manifest(build)
    kept = {"image_id", "gesture", "split", "rank", "spare"}
    left = after.to_pylist()[3]
    assert {name: left[name] for name in kept} == {name: row[name] for name in kept}
    assert not any(left[name] for name in set(MANIFEST.names) - kept)
    assert [r for n, r in enumerate(after.to_pylist()) if n not in gone] == [
        r for n, r in enumerate(rows) if n not in gone
    ]
    line = json.loads(next(line for line in journal_path(build).read_text().splitlines() if row["image_id"] in line))
    assert {name for name, value in line.items() if value} == {"image_id", "reason", "check"}
    build_ = Build.open(build)
    assert build_.run(until="facts", progress=False)["fetch"].failed == {"dropped": len(gone)}
    assert f"{len(gone)} dropped by people" in text(build_.status())
    assert build_.drop(**{by: row[by]}, progress=False).images == (1 if by == "image_id" else 0), "again: as before"


def test_b7_a_later_selection_leaves_the_person_out(build):
    row = read_manifest(build).to_pylist()[0]
    Build.open(build).drop(subject=row["subject"], progress=False)
    Build.start(Build.open(build).recipe, build, select={"train": 3}).run(until="fetch", progress=False)
    assert row["image_id"] not in read_manifest(build)["image_id"].to_pylist()
    assert row["subject"] not in read_manifest(build)["subject"].to_pylist()


@pytest.mark.parametrize("removed", ["the decision", "nothing"])
def test_b7_an_emptied_row_is_not_fetched_again(build, removed):
    row = read_manifest(build).to_pylist()[2]
    Build.open(build).drop(row["image_id"], progress=False)
    if removed == "the decision":
        for path in build.glob("*decisions*"):
            path.unlink()
    assert Build.open(build).run(only="fetch", progress=False)["fetch"].failed == {"dropped": 1}


def test_b7_archives_and_caches_that_hold_the_images_are_named(build, fetched, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "encoded").mkdir(parents=True)
    row = read_manifest(build).to_pylist()[0]
    assert main("handdata", "", COMMANDS, ["drop", str(build), "--image-id", row["image_id"]]) == 0
    out = capsys.readouterr().out
    for place in (fetched.parent / "images.zip", fetched.parent / "annotations.zip", tmp_path / "cache" / "encoded"):
        assert f"{place} may still hold these images" in out


def test_b7_texts_and_notes_about_the_person_leave_the_decisions(tmp_path):
    build = finished_build(tmp_path / "build", {"train": 3, "validation": 0, "test": 0})
    assemble.run(build, Build.open(build).recipe, QUIET)
    rows = read_manifest(build).to_pylist()
    words, other = (f"a {who} {gestures()[row['gesture']].phrase}." for who, row in zip(
        ("woman with a scar", "man"), rows[:2], strict=True))  # fmt: skip
    decisions.append(build, [
        Decision("edited", image_id=rows[0]["image_id"], text=words),
        Decision("rejected", subject=rows[0]["subject"], note="she has a scar"),
        Decision("edited", image_id=rows[1]["image_id"], text=other),
        Decision("rejected", image_id=rows[0]["image_id"], note="scar"),
    ])  # fmt: skip
    Build.open(build).drop(subject=rows[0]["subject"], note="asked by mail", progress=False)
    assert traces(build, "scar") == set()
    replayed = decisions.replay(build)
    assert replayed.text(rows[1]["image_id"]) == other
    assert replayed.dropped_subjects == {rows[0]["subject"]} and replayed.dropped_images == {rows[0]["image_id"]}
    assert "asked by mail" in (build / FILE).read_text()


def test_b7_images_are_removed_where_the_others_cannot_be_assembled(tmp_path):
    build = finished_build(tmp_path / "build", {"train": 3, "validation": 0, "test": 0})
    assemble.run(build, Build.open(build).recipe, QUIET)
    rows = read_manifest(build).to_pylist()
    decisions.append(build, [Decision("edited", image_id=rows[1]["image_id"], text="without the gesture")])
    with pytest.raises(UserError, match=f"1 images are removed.*not written.*{rows[1]['image_id']} fails the checks"):
        Build.open(build).drop(image_id=rows[0]["image_id"], progress=False)
    assert not (build / "dataset").exists() and not list(build.rglob(f"{rows[0]['image_id']}*"))
