"""Every kind of damage to the files of a build: one sentence, or the dataset that an undamaged build has."""

import random
import shutil
from pathlib import Path

import pytest

from handdata.builds.build import Build
from handdata.cli import COMMANDS
from handdata.cli.program import main
from handdata.rows import decisions
from handdata.rows.decisions import Decision
from handdata.rows.manifest import read_manifest
from handdata.stages import assemble
from tests.faults.test_a4_changed_files import contents, flip
from tests.finished import QUIET, finished_build

DERIVED = (
    "run.json", "assembled.json", "review.html", ".decisions.json", ".lock", "fetch/journal.jsonl",
    "facts/00000.parquet", "captions/00000.parquet", "checks/00000.parquet", "dataset/checksums.json",
    "dataset/croissant.json", "dataset/data/call/train-00000-of-00001.parquet",
)  # fmt: skip
OWN = ("manifest.parquet", "decisions.jsonl", "recipe.toml")
DAMAGES = ("empty", "half", "flipped", "utf-16", "list", "numbers", "missing", "folder")


def damage(path: Path, how: str, seed: int) -> None:
    if how in ("missing", "folder"):
        path.unlink(missing_ok=True)
        if how == "folder":
            path.mkdir()
    elif how == "flipped":
        flip(path, seed)
    else:
        data = path.read_bytes()
        changed = {"empty": b"", "half": data[: len(data) // 2], "list": b"[]", "numbers": b'{"key": 7, "rows": [1]}\n'}
        changed["utf-16"] = data.decode("latin-1").encode("utf-16")
        path.write_bytes(changed[how])


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory) -> Path:
    build = finished_build(tmp_path_factory.mktemp("d1") / "build", {"train": 3, "validation": 1, "test": 2})
    ids = read_manifest(build)["image_id"].to_pylist()
    decisions.append(build, [Decision("rejected", image_id=ids[0]), Decision("accepted", image_id=ids[1])])
    (build / "fetch" / "journal.jsonl").write_text('{"image_id": "a", "key": "b", "check": "c"}\n')
    started = Build.start(Build.open(build).recipe, build)
    started.update_record({"assemble": {"rows": 12, "failed": {}}})
    assemble.run(build, started.recipe, QUIET)
    started.review()
    return build


def handdata(*arguments: object) -> int:
    return main("handdata", "", COMMANDS, [str(argument) for argument in arguments])


CASES = [(name, how) for name in (*DERIVED, *OWN) for how in DAMAGES]
CASES = random.Random(0).sample([case for case in CASES if case != ("recipe.toml", "utf-16")], 40)


@pytest.mark.parametrize(("name", "how"), CASES, ids=lambda value: str(value).replace("/", "-"))
def test_d1_a_damaged_file_of_a_build_is_a_sentence_or_changes_nothing(undamaged, tmp_path, capsys, name, how):
    build = Path(shutil.copytree(undamaged, tmp_path / "build"))
    before = contents(build / "dataset")
    damage(build / name, how, seed=len(name))
    for command in (["status", build], ["review", build], ["publish", build, "--to", tmp_path / "hands"]):
        code, streams = handdata(*command), capsys.readouterr()
        assert code in (0, 2), command
        assert (code == 0) == (not [line for line in streams.err.splitlines() if line.startswith("handdata: ")])
    code = handdata("assemble", build)
    sentence = capsys.readouterr().err.strip()
    if code == 0:
        assert contents(build / "dataset") == before or (name, how) == ("recipe.toml", "flipped")
    else:
        assert code == 2 and sentence.startswith("handdata: ") and sentence.count("\n") == 0, sentence
        assert name.rpartition("/")[2] in sentence or "not a build folder" in sentence, "it names the file"
        assert any(
            word in sentence for word in ("run `handdata ", "restore", "move it away", "start one", "recipe.toml")
        )


@pytest.mark.parametrize("folder", ["texts", "images", "dataset", "fetch"])
def test_d1_a_file_in_the_place_of_a_folder_is_a_sentence(undamaged, tmp_path, capsys, folder):
    build = Path(shutil.copytree(undamaged, tmp_path / "build"))
    before = contents(build / "dataset")
    shutil.rmtree(build / folder)
    (build / folder).write_bytes(b"x")
    assert handdata("status", build) == 0
    code = handdata("assemble", build)
    assert code in (0, 1, 2)
    if folder == "dataset":
        assert code == 0 and contents(build / "dataset") == before
    assert "Traceback" not in capsys.readouterr().err
    image_id = read_manifest(build)["image_id"][3].as_py()
    assert handdata("drop", build, "--image-id", image_id) in (0, 1, 2), "the file is no folder of images"


@pytest.mark.parametrize("stage", ["texts", "fetch"])
def test_d1_a_shard_in_the_place_of_the_manifest_is_a_sentence(undamaged, tmp_path, capsys, stage):
    build = Path(shutil.copytree(undamaged, tmp_path / "build"))
    shutil.copyfile(build / stage / "00000.parquet", build / "manifest.parquet")
    for command in ("status", "review", "assemble", "check"):
        assert handdata(command, build) == 2
        assert "manifest.parquet is damaged: restore it from a copy" in capsys.readouterr().err
