"""Files of `dataset/` that were emptied, damaged or removed: assembled again, and named by `publish`."""

import shutil
from pathlib import Path

import pytest

from handdata.builds.build import Build
from handdata.errors import UserError
from handdata.stages import assemble
from tests.faults.test_a4_changed_files import contents, flip
from tests.finished import QUIET, finished_build

COUNTS = {"train": 3, "validation": 1, "test": 2}
FILES = ("README.md", "manifest.parquet", "data/ok/test-00000-of-00001.parquet", "figures/statistics.png")


@pytest.fixture(scope="module")
def assembled(tmp_path_factory) -> Path:
    build = finished_build(tmp_path_factory.mktemp("a5") / "build", COUNTS)
    assemble.run(build, Build.open(build).recipe, QUIET)
    return build


@pytest.fixture
def build(assembled, tmp_path) -> Path:
    return Path(shutil.copytree(assembled, tmp_path / "build"))


def damage(path: Path, how: str) -> None:
    if how == "emptied":
        path.write_bytes(b"")
    elif how == "flipped":
        flip(path, 1)
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["emptied", "flipped", "missing", "a folder"])
@pytest.mark.parametrize("name", [FILES[0], FILES[2], "checksums.json"])
def test_a5_publish_names_the_file_and_assemble_repairs_it(build, tmp_path, name, how):
    before = contents(build / "dataset")
    damage(build / "dataset" / name, how)
    with pytest.raises(UserError, match=f"{name} was changed after it was made: run `handdata assemble"):
        Build.open(build).publish(str(tmp_path / "hands"))
    Build.open(build).run(only="assemble", progress=False)
    assert contents(build / "dataset") == before
    assert Build.open(build).publish(str(tmp_path / "hands")).rows == 12


@pytest.mark.parametrize("name", FILES)
def test_a5_status_notices_an_emptied_file(build, name):
    assert Build.open(build).status()["dataset"]["current"]
    damage(build / "dataset" / name, "emptied")
    assert not Build.open(build).status()["dataset"]["current"]


@pytest.mark.parametrize("how", ["emptied", "flipped", "missing", "other counts"])
def test_a5_a_damaged_summary_counts_as_absent(build, how):
    path, before = build / "assembled.json", contents(build / "dataset")
    if how == "other counts":
        path.write_text(path.read_text().replace('"train": 3', '"train": 4'))
    else:
        damage(path, how)
    assert "dataset" not in Build.open(build).status()
    Build.open(build).run(only="assemble", progress=False)
    assert contents(build / "dataset") == before and Build.open(build).status()["dataset"]["rows"]["ok"]["train"] == 3
