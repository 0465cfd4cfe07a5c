"""The plan: the cost of a build is known before it starts, and it is true."""

import dataclasses
import json

import pytest

from handdata.builds import plan
from handdata.recipe import find, load
from handdata.rows.manifest import read_manifest
from tests import hagrid
from tests.handdata.builds.test_build import handdata
from tests.range_server import serve


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


def test_the_papers_recipe_costs_1_6_gb_offline():
    cost = plan.plan(load(find("hand1000")), offline=True)
    assert cost.images == {"train": 6900, "validation": 690, "test": 6900}
    assert cost.spares == 14_490 - 6 * 2100
    assert cost.bytes == 14_490 * 110_000 and not cost.exact
    text = plan.report(cost)
    assert "about 1.59 GB" in text and "assumed, not measured" in text and "not a Creative Commons licence" in text


def test_a_plan_has_the_exact_requests_and_bytes_of_fetching(tmp_path, capsys):
    world = hagrid.world(train=18, val=2, test=4)
    (tmp_path / "served").mkdir()
    world.write_annotations(tmp_path / "served" / "annotations.zip")
    world.write_images(tmp_path / "served" / "images.zip", gap=200_000)
    with serve(tmp_path / "served") as server:
        source = {"annotations": server.url("annotations.zip"), "images": server.url("images.zip")}
        recipe = hagrid.write_recipe(tmp_path, source, train=10)
        assert handdata("plan", recipe, "--json") == 0
        printed = capsys.readouterr()
        cost = json.loads(printed.out)
        assert "to plan, the annotations" in printed.err, "it announces the files that it reads"
        planned = len(server.log)
        assert handdata("build", recipe, "--out", tmp_path / "build", "--until", "fetch") == 0
        parts = [(request.start, request.end) for request in server.log[planned:] if request.path == "images.zip"][1:]
    rows = read_manifest(tmp_path / "build").to_pylist()
    assert cost["requests"] == len(parts) == len(rows) == sum(cost["images"].values())
    assert cost["bytes"] == sum(end - start for start, end in parts)
    assert cost["disk"] == sum(row["size"] for row in rows)
    assert cost["exact"] and cost["measured"] and cost["minutes"] > 0


def test_an_offline_plan_sends_no_request(tmp_path, capsys):
    recipe = hagrid.write_recipe(tmp_path, {"annotations": "https://host/a.zip", "images": "https://host/b.zip"})
    assert handdata("plan", recipe, "--offline") == 0
    assert "time" in capsys.readouterr().out


def test_a_drawn_world_is_planned_without_drawing_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert handdata("plan", "mini", "--select.gestures", "ok", "--select.train", "20", "--select.spare", "0") == 0
    printed = capsys.readouterr().out
    assert "20 train" in printed and "0 of them spare" in printed and "per connection" not in printed
    assert not list(tmp_path.iterdir())


def test_a_bigger_count_of_known_gestures_costs_in_proportion():
    recipe = load(find("hand1000"))
    double = dataclasses.replace(recipe, select=dataclasses.replace(recipe.select, train=2000, test=2000))
    assert plan.plan(double, True).bytes == pytest.approx(2 * plan.plan(recipe, True).bytes, rel=0.06)
