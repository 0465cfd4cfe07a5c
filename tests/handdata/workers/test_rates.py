"""Times of earlier builds on this machine, and the plans that they give."""

import dataclasses
import json
import shutil
from importlib import metadata

import pytest

from handdata import assets
from handdata.builds import plan
from handdata.builds.build import Build
from handdata.errors import UserError
from handdata.recipe import find, load, override
from handdata.stages import STAGES, StageReport
from handdata.workers import rates
from tests.handdata.builds.test_build import handdata
from tests.hub_server import HubServer

MINI = load(find("mini"))
REAL = assets.cache_folder()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


def reports(rows, **changed):
    """Return the reports of a build that made all its rows."""
    done = {stage.name: StageReport(rows, made_shards=2, made_rows=rows) for stage in STAGES}
    return {**done, **changed}


def seconds(each):
    return {stage.name: each * number for number, stage in enumerate(STAGES, 1)}


def test_a_build_with_another_seed_is_planned_with_the_times_of_the_first():
    images = sum(plan.plan(MINI, True).images.values())
    rates.record(MINI, reports(images), seconds(10.0), 1)
    other = override(MINI, select={"seed": 7}, render={"seed": 7})
    cost = plan.plan(other, True)
    planned = {stage.stage: stage.seconds for stage in cost.stages}
    spares = {"assemble": (images - cost.spares) / images}  # as many rows as the dataset has
    assert planned == {name: pytest.approx(each * spares.get(name, 1)) for name, each in seconds(10.0).items()}
    assert all("measured here on" in stage.basis for stage in cost.stages)
    assert "total" in plan.report(cost) and "assumed" not in plan.report(cost)


def test_time_grows_with_the_amount_from_the_record_of_the_nearest_size():
    rates.record(MINI, reports(100), dict.fromkeys(seconds(1), 10.0), 1)
    rates.record(MINI, reports(1000), dict.fromkeys(seconds(1), 50.0), 1)
    assert rates.recorded("facts", MINI, 150).units == 100
    assert rates.recorded("facts", MINI, 900).seconds == 50.0
    rates.record(MINI, reports(1000), dict.fromkeys(seconds(1), 20.0), 1)
    assert rates.recorded("facts", MINI, 900).seconds == 20.0, "the latest run of a size counts"


def test_a_run_of_less_than_a_shard_is_not_scaled_to_thousands_of_rows():
    rates.record(MINI, reports(100), dict.fromkeys(seconds(1), 10.0), 1)
    assert rates.recorded("facts", MINI, 800) and rates.recorded("facts", MINI, 801) is None
    rates.record(MINI, reports(256), dict.fromkeys(seconds(1), 12.0), 1)
    assert rates.recorded("facts", MINI, 100_000).units == 256


def test_other_models_sizes_and_devices_are_other_work():
    rates.record(MINI, reports(100), seconds(1.0), 1)
    assert rates.recorded("caption", MINI, 100)
    for table in ({"caption": {"model": "some/model"}}, {"caption": {"max_new_tokens": 9}}):
        assert rates.recorded("caption", override(MINI, **table), 100) is None
    assert rates.recorded("landmarks", override(MINI, render={"size": 96}), 100) is None
    served = override(MINI, rewrite={"server": "http://127.0.0.1:9/v1"})
    assert rates.recorded("rewrite", served, 100) is None and rates.recorded("facts", served, 100)


def test_a_number_of_workers_in_the_recipe_counts_before_that_of_the_command():
    several = override(MINI, resources={"facts": {"workers": 2}})
    rates.record(several, reports(100), dict.fromkeys(seconds(1), 10.0), 1)
    assert rates.recorded("facts", several, 100).seconds == 20.0
    assert rates.recorded("check", several, 100).seconds == 10.0


def test_resumed_small_and_parallel_runs():
    kept = StageReport(100, kept_shards=1, made_shards=1)
    rates.record(MINI, reports(100, facts=kept, fetch=StageReport(100, made_rows=40)), seconds(1.0), 1)
    assert rates.recorded("facts", MINI, 100) is None and rates.recorded("fetch", MINI, 100) is None
    assert rates.recorded("check", MINI, 100)
    rates.record(dataclasses.replace(MINI, image=dataclasses.replace(MINI.image, short_side=64)), reports(31), {}, 1)
    two = override(MINI, image={"short_side": 32})
    rates.record(two, reports(100), dict.fromkeys(seconds(1), 10.0), 2)
    assert rates.recorded("facts", two, 100).seconds == 20.0, "two workers did the work of 20 s"


def test_a_damaged_file_of_times_counts_as_absent(tmp_path):
    rates.record(MINI, reports(100), seconds(1.0), 1)
    path = tmp_path / "cache" / rates.FILE
    path.write_text(path.read_text().replace('"units": 100', '"units": 1'))
    assert rates.recorded("facts", MINI, 100) is None


def test_the_plan_of_the_papers_recipe_names_every_stage_and_model(capsys):
    assert handdata("plan", "hand1000", "--offline") == 0
    printed = capsys.readouterr().out
    for stage in STAGES:
        assert f" {stage.name} " in printed
    for words in ("hand-landmarker: 7.82 MB to download, licence Apache-2.0", "Salesforce/blip-image-captioning-large:"
                  " unknown size", "llama-3-8b-instruct: unknown size", "GPU-hours"):  # fmt: skip
        assert words in printed, words
    assert printed.count("assumed, not measured") == len(STAGES)
    assert handdata("plan", "hand1000", "--offline", "--json") == 0
    cost = json.loads(capsys.readouterr().out)
    assert [model["stage"] for model in cost["models"]] == ["landmarks", "caption", "rewrite"]
    assert cost["gpu_hours"] >= 0 and len(cost["stages"]) == len(STAGES)


def test_a_plan_names_size_licence_and_gate_of_models_on_the_hub(tmp_path, monkeypatch, capsys):
    with HubServer() as hub:
        hub.adopt(monkeypatch, tmp_path / "home")
        files = {"config.json": b"{}", "model.safetensors": b"w" * 2_000_000, "pytorch_model.bin": b"w" * 9_000_000}
        hub.host("maker/captions", files, licence="bsd-3-clause")
        hub.host("maker/texts", {"a.gguf": b"g" * 3_000_000, "b.gguf": b"g" * 8_000_000}, gated=True)
        tables = ["--caption.model", "maker/captions", "--rewrite.model", "hf:maker/texts/a.gguf"]
        assert handdata("plan", "mini", *tables) == 0
        printed = capsys.readouterr().out
        assert "maker/captions: 2.00 MB to download, licence bsd-3-clause" in printed
        assert "hf:maker/texts/a.gguf: 3.00 MB to download, licence unknown; gated: accept its terms" in printed
        assert handdata("plan", "mini", "--caption.model", "maker/none") == 2
        assert "--caption.model" in capsys.readouterr().err


def test_all_models_are_looked_up_before_the_first_stage_runs(tmp_path, monkeypatch):
    ran: list[str] = []
    monkeypatch.setattr("handdata.stages.select.run", lambda *_: ran.append("select") or StageReport())
    wrong = [
        ({}, r"hand_landmarker\.task is missing"),
        ({"rewrite": {"model": "hf:maker/gated/tiny.gguf"}}, "is gated"),
        ({"caption": {"model": "maker/none"}}, "is not on the Hub"),
        ({"rewrite": {"model": "none.gguf"}}, r"none\.gguf does not exist"),
    ]
    place = assets.cache_folder() / "hand_landmarker.task"
    place.parent.mkdir()
    with HubServer() as hub:
        hub.adopt(monkeypatch, tmp_path / "home")
        hub.host("maker/gated", {"tiny.gguf": b"GGUF"}, gated=True)
        for number, (tables, words) in enumerate(wrong):
            if number == 1:
                shutil.copy(REAL / place.name, place)
            with pytest.raises(UserError, match=words):
                Build.start(override(MINI, **tables), tmp_path / f"build{number}").run(progress=False)
    assert not ran
    until = Build.start(override(MINI, caption={"model": "maker/none"}), tmp_path / "some")
    until.run(until="select", progress=False)
    assert ran == ["select"], "models of stages that do not run are not needed"


def test_a_missing_package_is_named_before_the_first_stage_runs(tmp_path, monkeypatch):
    ran: list[str] = []
    monkeypatch.setattr("handdata.stages.select.run", lambda *_: ran.append("select") or StageReport())
    real = metadata.version

    def version(name: str) -> str:
        if name == "transformers":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr("handdata.assets.cache_folder", lambda: REAL)
    build = Build.start(MINI, tmp_path / "build")
    with pytest.raises(UserError, match=r"stage caption needs transformers: pip install 'hand1000\[data\]'"):
        build.run(progress=False)
    assert not ran
    build.run(until="select", progress=False)
    assert ran == ["select"], "packages of stages that do not run are not needed"
