"""Builds from a recipe to stored images, from the command line and from Python, of folders and local archives."""

import json
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import handdata as handdata_api
from handdata.builds import build as builds
from handdata.builds.build import Build
from handdata.cli import COMMANDS
from handdata.cli.program import main
from handdata.errors import UserError
from handdata.recipe import RewriteOptions, dump, find, load, override
from handdata.rows import decisions
from handdata.rows.manifest import read_manifest
from handdata.rows.schema import STAGE_COLUMNS
from handdata.rows.shards import shard_path, write_table
from handdata.stages import STAGES, Execution, StageReport, StageSpec, stage_named, stages_until
from handdata.stages.caption import Captions
from handdata.stages.rewrite import Rewriting
from tests import ROOT, hagrid
from tests.photos import PHOTOS, needs_photos
from tests.range_server import serve


def handdata(*arguments: object) -> int:
    return main("handdata", "", COMMANDS, [str(argument) for argument in arguments])


def build_of(tmp_path: Path, source: dict, name: str = "build", **select: object) -> Path:
    recipe = hagrid.write_recipe(tmp_path, source, **select)
    assert handdata("build", recipe, "--out", tmp_path / name, "--until", "facts") == 0
    return tmp_path / name


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").glob("*/*.jpg")}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_build_from_local_archives_stores_every_chosen_image(tmp_path, method):
    world = hagrid.world()
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "images.zip", method=method)
    out = build_of(tmp_path, {"annotations": "annotations.zip", "images": "images.zip"})
    rows = read_manifest(out).to_pylist()
    assert len(rows) == 2 * (5 + 2 + 3), "with 15 % spare, rounded up"
    assert set(stored(out)) == {f"{row['image_id']}.jpg" for row in rows}
    facts = pq.read_table(shard_path(out, "facts", 0))
    assert facts["reason"].null_count == len(rows)
    assert (facts["width"][0].as_py(), facts["height"][0].as_py()) == (96, 64)


def test_files_of_a_folder_that_change_are_selected_again_and_a_build_in_it_is_not_read(tmp_path):
    folder = tmp_path / "folder"
    hagrid.world().write_folder(folder)
    out = build_of(tmp_path, {"kind": "folder", "images": "folder"}, "folder/build")
    first = (out / "manifest.parquet").read_bytes()
    build_of(tmp_path, {"kind": "folder", "images": "folder"}, "folder/build")
    assert (out / "manifest.parquet").read_bytes() == first
    rows = read_manifest(out).to_pylist()
    assert not any(row["member"].startswith("build/") for row in rows)
    changed, removed = rows[0], rows[1]
    (folder / changed["member"]).write_bytes((folder / removed["member"]).read_bytes() + b" ")
    (folder / removed["member"]).unlink()
    build_of(tmp_path, {"kind": "folder", "images": "folder"}, "folder/build")
    after = {row["image_id"]: row for row in read_manifest(out).to_pylist()}
    assert after[changed["image_id"]]["crc32"] != changed["crc32"] and removed["image_id"] not in after
    assert set(pq.read_table(shard_path(out, "fetch", 0))["reason"].to_pylist()) == {None}


def test_archives_and_folders_in_every_layout_give_the_same_images(tmp_path):
    world = hagrid.world()
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "one.zip", prefix="train_val_")
    world.write_folder(tmp_path / "folder")
    for gesture in ("call", "ok"):
        part = hagrid.World(images={key: data for key, data in world.images.items() if key[0] == gesture})
        part.write_images(tmp_path / f"{gesture}.zip", prefix="")
    builds = [
        build_of(tmp_path, {"annotations": "annotations.zip", "images": "one.zip"}, "a"),
        build_of(tmp_path, {"annotations": "folder/annotations", "images": "{gesture}.zip"}, "b"),
        build_of(tmp_path, {"kind": "folder", "images": "folder"}, "c"),
    ]
    first = stored(builds[0])
    assert len(first) == 20
    assert all(stored(build) == first for build in builds)


@needs_photos
def test_all_reference_photographs_go_through_as_a_folder(tmp_path):
    gestures = sorted(path.name for path in (PHOTOS / "images").iterdir())
    out = build_of(tmp_path, {"kind": "folder", "images": str(PHOTOS)}, gestures=gestures, max_per_subject=0, train=30)
    assert len(stored(out)) == 39
    assert handdata("status", out) == 0


def test_a_manifest_alone_fetches_the_same_images(tmp_path):
    world = hagrid.world()
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "images.zip")
    out = build_of(tmp_path, {"annotations": "annotations.zip", "images": "images.zip"})
    assert handdata("fetch", "--manifest", out / "manifest.parquet", "--out", tmp_path / "again") == 0
    assert stored(tmp_path / "again") == stored(out)
    assert handdata("build", tmp_path / "again" / "recipe.toml", "--out", tmp_path / "again", "--until", "fetch") == 0


def test_the_format_of_a_manifests_images_cannot_be_changed_by_flags(tmp_path, capsys):
    flags = ("--out", tmp_path / "again", "--image.short-side", 64)
    assert handdata("fetch", "--manifest", tmp_path / "manifest.parquet", *flags) == 2
    assert "--image.* needs a build folder" in capsys.readouterr().err and not (tmp_path / "again").exists()


def test_a_build_of_a_manifest_keeps_its_recipe_and_requests_the_addresses_in_it(tmp_path):
    (tmp_path / "served").mkdir()
    world = hagrid.world()
    world.write_annotations(tmp_path / "served" / "annotations.zip")
    world.write_images(tmp_path / "served" / "images.zip")
    with serve(tmp_path / "served") as server:
        private = server.url("images.zip").replace("://", "://ann:s3cret@")
        out = build_of(tmp_path, {"annotations": server.url("annotations.zip"), "images": private})
        command = ("fetch", "--manifest", out / "manifest.parquet", "--out", tmp_path / "again")
        assert handdata(*command, "--attempts", 3) == 0
        recipe = tmp_path / "again" / "recipe.toml"
        recipe.write_text(dump(override(load(recipe), source={"images": (private,)})))
        next((tmp_path / "again").glob("images/*/*.jpg")).unlink()
        server.log.clear()
        assert handdata(*command) == 0
        assert server.log and all("Authorization" in request.headers for request in server.log)
        assert load(recipe).source.images == (private,) and load(recipe).fetch.attempts == 3
        before = (tmp_path / "again" / "manifest.parquet").read_bytes()
        assert handdata("build", recipe, "--out", tmp_path / "again", "--until", "fetch") == 0
        assert (tmp_path / "again" / "manifest.parquet").read_bytes() == before
    assert stored(tmp_path / "again") == stored(out)


def test_building_again_keeps_manifest_images_and_shards(tmp_path):
    world = hagrid.world()
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "images.zip")
    source = {"annotations": "annotations.zip", "images": "images.zip"}
    out = build_of(tmp_path, source)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".parquet", ".jpg")}
    build_of(tmp_path, source)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_flags_of_a_stage_are_written_back_into_the_builds_recipe(tmp_path, capsys):
    world = hagrid.world()
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "images.zip")
    out = build_of(tmp_path, {"annotations": "annotations.zip", "images": "images.zip"})
    assert handdata("select", out, "--train", "6") == 0
    assert load(out / "recipe.toml").select.train == 6
    assert handdata("fetch", out, "--connections", "2", "--image.short-side", "32") == 0
    assert load(out / "recipe.toml").fetch.connections == 2
    assert len(stored(out)) == 2 * (7 + 2 + 3)
    capsys.readouterr()
    assert handdata("status", out, "--json") == 0
    state = json.loads(capsys.readouterr().out)
    assert state["stages"]["fetch"] == {"done": 24, "failed": {}, "left": 0, "examples": []}


def test_run_json_holds_versions_seed_hashes_and_counts_per_reason(tmp_path):
    world = hagrid.world(train=4)
    world.images["call", hagrid.image_id("call", "train", 0)] = b"no image"
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "images.zip")
    out = build_of(tmp_path, {"annotations": "annotations.zip", "images": "images.zip"}, seed=7)
    run = json.loads((out / "run.json").read_text())
    assert run["seed"] == 7 and set(run["versions"]) >= {"python", "hand1000", "pillow"}
    assert set(run["inputs"]) == {"recipe", "manifest"}
    assert run["stages"]["fetch"] == {"rows": 18, "failed": {"image-corrupt": 1}}
    assert run["stages"]["facts"]["failed"] == {"failed-earlier": 1}
    assert run["selection"]["candidates"] == 2 * (4 + 2 + 4)


def test_a_dropped_person_is_removed_and_neither_fetched_nor_selected_again(tmp_path):
    world = hagrid.world()
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "images.zip")
    out = build_of(tmp_path, {"annotations": "annotations.zip", "images": "images.zip"})
    row = read_manifest(out).to_pylist()[0]
    decisions.append(out, [decisions.Decision("dropped", subject=row["subject"])])
    assert handdata("fetch", out) == 0
    assert f"{row['image_id']}.jpg" not in stored(out)
    reasons = pq.read_table(shard_path(out, "fetch", 0))["reason"].to_pylist()
    assert set(reasons) == {None, "dropped"}
    assert handdata("select", out, "--train", "8") == 0
    assert row["subject"] not in read_manifest(out)["subject"].to_pylist()


def test_two_processes_do_not_work_on_one_build(tmp_path):
    build = Build.start("mini", tmp_path)
    code = "import sys, time\nimport handdata\n"
    code += "with handdata.Build.open(sys.argv[1]).lock():\n"
    code += "    print('held', flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {other.pid} is working on"), build.lock():
            pass
        other.kill()
    with build.lock():
        pass


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    recipe = hagrid.write_recipe(tmp_path, {"annotations": "a.zip", "images": "b.zip"})
    assert handdata("build", recipe, "--out", tmp_path / "build", "--dry-run") == 0
    assert "would run" in capsys.readouterr().out
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["build", "nothing.toml", "--out", "x"], "recipe file nothing.toml does not exist"),
        (["select", "nowhere"], "nowhere is not a build folder: start one with"),
        (["fetch"], "give either a build folder, or --manifest FILE and --out BUILD"),
        (["status", "nowhere"], "nowhere is not a build folder"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert handdata(*arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_manifest_that_leads_out_of_the_build_folder_is_refused(tmp_path):
    world = hagrid.world()
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "images.zip")
    out = build_of(tmp_path, {"annotations": "annotations.zip", "images": "images.zip"})
    table = read_manifest(out)
    evil = table.set_column(1, "gesture", [["../../evil"] * table.num_rows])
    write_table(evil.replace_schema_metadata(table.schema.metadata), tmp_path / "evil.parquet")
    assert handdata("fetch", "--manifest", tmp_path / "evil.parquet", "--out", tmp_path / "again") == 2
    assert not (tmp_path / "evil").exists()


def test_a_build_keeps_the_commit_that_a_branch_first_resolved_to(tmp_path, monkeypatch):
    branch = {"main": "a" * 40, "v2": "c" * 40}

    class Captioning:
        """A stage whose model is at a commit of a branch."""

        @staticmethod
        def at_commit(options):
            return replace(options, revision=branch.get(options.revision, options.revision))

    seen = []

    def run(stage, options, folder, execution, resources):
        seen.append(options.revision)
        return StageReport()

    monkeypatch.setattr(builds.engines, "run", run)
    monkeypatch.setattr(StageSpec, "load", lambda self: Captioning)

    def captioned(revision: str, folder: Path = tmp_path) -> str:
        Build.start("mini", folder, caption={"model": "somebody/captioner", "revision": revision}).run(only="caption")
        return seen[-1]

    assert captioned("main") == "a" * 40
    branch["main"] = "b" * 40
    assert captioned("main") == "a" * 40, "the branch moved, the build does not"
    assert captioned("v2") == "c" * 40, "another branch was requested"
    (tmp_path / "later").mkdir()
    assert captioned("main", tmp_path / "later") == "b" * 40, "a new build uses the branch's commit of today"
    assert json.loads((tmp_path / "later" / "run.json").read_text())["pins"]["caption"]["commit"] == "b" * 40


def test_a_build_keeps_the_device_that_its_first_run_named(tmp_path, monkeypatch):
    def options(folder: Path = tmp_path, engine: str = "local", **caption):
        build = Build.start("mini", folder, caption={"model": "mini-blip", **caption})
        chosen = build._options(stage_named("caption"), Captions, Execution(engine))
        return chosen.device, chosen.dtype

    monkeypatch.setattr("handdata.texts.captioners.local.choose_device", lambda name: torch.device("cpu"))
    assert options(device="auto") == ("cpu", "float32")
    monkeypatch.setattr("handdata.texts.captioners.local.choose_device", lambda name: torch.device("cuda"))
    assert options(device="auto") == ("cpu", "float32"), "resumed on a machine with a GPU"
    assert options(device="cuda") == ("cuda", "bfloat16"), "another device was requested"
    assert options(tmp_path / "new", device="auto") == ("cuda", "bfloat16")
    monkeypatch.setattr(builds.engines, "has_gpu", lambda execution: False)
    assert options(tmp_path / "cluster", "ray", device="auto") == ("cpu", "float32"), (
        "the head has a GPU, no worker has"
    )
    monkeypatch.setattr(builds.engines, "has_gpu", lambda execution: True)
    assert options(tmp_path / "gpus", "ray", device="auto", dtype="float32") == ("cuda", "float32")


def test_texts_of_a_gpu_have_another_key_and_those_of_a_cpu_the_key_that_they_had(tmp_path, monkeypatch):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    plain, key = RewriteOptions(str(model)), Rewriting.fingerprint
    monkeypatch.setattr("handdata.texts.llama.gpu_supported", lambda: False)
    before = key(plain)
    assert "device" not in before and "gpu_layers" not in before and key(replace(plain, device="cpu")) == before
    assert Rewriting.on_device(plain, None).device == "cpu"
    monkeypatch.setattr("handdata.texts.llama.gpu_supported", lambda: True)
    assert key(replace(plain, device="cpu")) == key(replace(plain, gpu_layers=0)) == before
    assert key(plain) == key(replace(plain, device="gpu")) == before | {"device": "gpu", "gpu_layers": -1}
    assert Rewriting.on_device(plain, None).device == "gpu" and Rewriting.on_device(plain, False).device == "cpu"
    server = replace(plain, server="http://127.0.0.1:9/v1")
    assert Rewriting.on_device(server, True) == server and not Rewriting.on_gpu(server)


def test_until_and_only_accept_the_names_of_the_table_of_stages(tmp_path):
    assert [stage.name for stage in stages_until("fetch")] == ["select", "fetch"]
    assert stages_until(None) == STAGES
    build = Build.start("mini", tmp_path / "build")
    for wrong in ({"until": "fetchh"}, {"only": "fetchh"}):
        with pytest.raises(UserError, match="unknown stage 'fetchh': did you mean 'fetch'"):
            build.run(**wrong)
    with pytest.raises(UserError, match="unknown engine 'spark'"):
        build.run(engine="spark")


def test_every_stage_of_the_table_can_be_loaded_and_has_its_columns_and_options():
    for stage in STAGES:
        assert callable(stage.load()), stage.name
        assert stage.table is None or hasattr(load(find("mini")), stage.table)
    assert [stage.columns for stage in STAGES if stage.columns] == list(STAGE_COLUMNS)


def test_a_notebook_starts_runs_and_opens_a_build(tmp_path, capsys):
    world = hagrid.world()
    world.write_annotations(tmp_path / "annotations.zip")
    world.write_images(tmp_path / "images.zip")
    source = {"annotations": tmp_path / "annotations.zip", "images": tmp_path / "images.zip"}
    select = {"gestures": ("call", "ok"), "train": 4, "validation": 1, "test": 2}
    build = handdata_api.Build.start("hand1000", tmp_path / "build", source=source, select=select)
    reports = build.run(until="facts", progress=False)
    assert list(reports) == ["select", "fetch", "facts"] and reports["facts"].rows == 2 * (5 + 2 + 3)
    again = handdata_api.Build.open(str(tmp_path / "build"))
    assert again.recipe == build.recipe and again.recipe.select.train == 4
    assert again.run(only="facts", progress=False)["facts"].kept_shards == 1
    assert again.status()["stages"]["facts"]["done"] == 20
    output = capsys.readouterr()
    assert output.out == output.err == ""


def test_a_version_is_known_without_an_installed_package():
    code = (
        "import importlib.metadata as metadata, sys\n"
        "def missing(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = missing\n"
        "from handdata.cli.program import main\n"
        "main('handdata', '', {}, ['--version'])\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert answer.stdout == f"handdata {declared}\n"
