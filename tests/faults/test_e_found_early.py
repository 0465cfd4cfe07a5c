"""Found before any work: gestures without a definition. Readable: front matter without aliases, tables of status."""

import pytest
import yaml

from handdata.builds import status
from handdata.builds.build import Build
from handdata.cli import COMMANDS
from handdata.cli.program import main
from handdata.errors import UserError
from handdata.recipe import Recipe, load
from handdata.stages import assemble
from tests import hagrid
from tests.finished import QUIET, finished_build


@pytest.mark.parametrize(
    ("table", "name"), [("select", "callme"), ("select", "all"), ("render", "OK"), ("select", "no_gesture")]
)
def test_e_a_gesture_without_a_definition_is_refused_before_any_work(tmp_path, capsys, table, name):
    with pytest.raises(UserError, match=f"unknown gesture '{name}': did you mean"):
        Build.start(Recipe("new"), tmp_path / "build", **{table: {"gestures": ("ok", name)}})
    path = tmp_path / "recipe.toml"
    path.write_text(hagrid.recipe_text(**{table: {"gestures": ["ok", name]}}))
    assert main("handdata", "", COMMANDS, ["build", str(path), "--out", str(tmp_path / "build")]) == 2
    assert f"unknown gesture '{name}'" in capsys.readouterr().err and not (tmp_path / "build").exists()
    with pytest.raises(UserError, match="All gestures are in"):
        load(path)


def test_e_the_front_matter_of_a_card_has_no_aliases(tmp_path):
    build = finished_build(tmp_path / "build", {"train": 2, "validation": 1, "test": 1})
    assemble.run(build, Build.open(build).recipe, QUIET)
    front = (build / "dataset/README.md").read_text().split("---\n")[1]
    events = list(yaml.parse(front))
    assert not [event for event in events if isinstance(event, yaml.AliasEvent)] and "&id" not in front
    about = yaml.safe_load(front)
    assert [entry["config_name"] for entry in about["dataset_info"]] == ["all", "call", "ok"]
    assert about["dataset_info"][0]["features"] == about["dataset_info"][2]["features"]


@pytest.mark.parametrize("gesture", ["two_up_inverted", "three2"])
def test_e_status_separates_long_names_from_numbers(gesture):
    counts = {"done": 240, "failed": {}, "left": 0}
    state = {
        "name": "n", "build": "b", "rows": 240, "spares": 0, "selection": {}, "decisions": {}, "converted": {},
        "stages": {"a_stage_with_a_long_name": counts, "fetch": counts},
        "dataset": {"rows": {gesture: {"train": 240}, "ok": {"train": 1}}, "shortfalls": [], "current": True},
    }  # fmt: skip
    lines = status.text(state).splitlines()
    assert f"  {gesture}  240 train" in lines
    assert lines[-1] == "  ok" + " " * len(gesture) + "1 train"
    assert [line.split()[:2] for line in lines if "long_name" in line] == [["a_stage_with_a_long_name", "240"]]
