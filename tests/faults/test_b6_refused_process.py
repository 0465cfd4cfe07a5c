"""A process that is refused because another one works in the build folder changes nothing."""

import json

import pytest

from handdata.builds.build import Build
from handdata.builds.folder import BuildFolder
from handdata.cli import COMMANDS
from handdata.cli.program import main
from handdata.recipe import load
from handdata.rows.manifest import SOURCES
from handdata.rows.shards import read_table, write_table
from tests.finished import finished_build


@pytest.fixture
def build(tmp_path):
    folder = finished_build(tmp_path / "build", {"train": 2, "validation": 0, "test": 0})
    table = read_table(folder / "manifest.parquet")
    places = {
        name: {"places": [f"https://h.example/{name}"], "length": 9, "identities": {}}
        for name in ("call.zip", "ok.zip")
    }
    write_table(table.replace_schema_metadata({SOURCES: json.dumps(places)}), folder / "manifest.parquet")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "mini", "--out", "BUILD", "--select.seed", "7"],
        ["select", "BUILD", "--train", "9"],
        ["caption", "BUILD", "--batch", "3"],
        ["fetch", "--manifest", "BUILD/manifest.parquet", "--out", "BUILD"],
    ],
)
def test_b6_a_refused_command_leaves_recipe_and_manifest(build, capsys, arguments):
    files = [build / "recipe.toml", build / "manifest.parquet"]
    before = [path.read_bytes() for path in files]
    with BuildFolder.open(build).lock():
        assert main("handdata", "", COMMANDS, [word.replace("BUILD", str(build)) for word in arguments]) == 2
    assert "is working on" in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before


def test_b6_the_recipe_in_the_folder_is_that_of_the_process_that_works(build):
    first = Build.start(Build.open(build).recipe, build, publish={"title": "first"})
    Build.start(first.recipe, build, publish={"title": "second"})  # another process, before the first one has the lock
    first.run(only="assemble", progress=False)
    assert load(build / "recipe.toml").publish.title == "first"
    assert "# first" in (build / "dataset" / "README.md").read_text()
