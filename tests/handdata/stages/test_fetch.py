"""Fetching through a real server: faults, damage, mirrors, kills, full disks; every image arrives or has a reason."""

import dataclasses
import errno
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from handdata.errors import Unfinished, UserError
from handdata.recipe import dump, load
from handdata.rows.manifest import read_manifest, source_facts
from handdata.rows.schema import REASONS
from handdata.rows.shards import shard_path, write_table
from handdata.stages import Execution, fetch, select
from tests import hagrid
from tests.range_server import FAULTS, RangeServer, serve

QUIET = Execution(progress=False)
STAGES = {"select": select.run, "fetch": fetch.run}
QUICK = {"backoff": 0.01, "timeout": 1.0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def world(tmp_path):
    """48 images, all of which the recipe of `started` selects, in archives of the folder `served`."""
    world = hagrid.world(train=18, val=2, test=4)
    world.images = {key: hagrid.jpeg(int(key[1][:8], 16), (160, 120)) for key in world.images}
    (tmp_path / "served").mkdir()
    world.write_annotations(tmp_path / "served" / "annotations.zip")
    world.write_images(tmp_path / "served" / "images.zip")
    return world


def started(
    tmp_path: Path,
    server: RangeServer,
    images: object = None,
    options: dict | None = None,
    chosen: dict | None = None,
) -> Path:
    """Start a build from a server's archives; return its folder."""
    source = {"annotations": server.url("annotations.zip"), "images": images or server.url("images.zip")}
    chosen = chosen or {"gestures": ["call", "ok"], "train": 18, "validation": 2, "test": 4}
    path = tmp_path / "recipe.toml"
    path.write_text(hagrid.recipe_text(source=source, select=chosen, fetch={**QUICK, **(options or {})}))
    (tmp_path / "build").mkdir(exist_ok=True)
    (tmp_path / "build" / "recipe.toml").write_text(dump(load(path)))
    return tmp_path / "build"


def run(out: Path, *names: str) -> dict:
    recipe = load(out / "recipe.toml")
    return {name: STAGES[name](out, recipe, QUIET) for name in names or STAGES}


def stored(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "images").glob("*/*.jpg")}


def expected(world: hagrid.World) -> set[str]:
    return {f"{name}.jpg" for _, name in world.images}


def failures(out: Path) -> dict[str, str]:
    table = pq.read_table(shard_path(out, "fetch", 0))
    pairs = zip(table["image_id"].to_pylist(), table["reason"].to_pylist(), strict=True)
    return {image_id: reason for image_id, reason in pairs if reason}


def test_all_images_of_a_remote_archive_arrive_in_few_requests(tmp_path, world):
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        reports = run(out)
    assert not reports["fetch"].failed
    assert set(stored(out)) == expected(world)
    parts = server.parts_of("images.zip")
    assert len(parts) < 48, "neighbours are merged"
    index = 2 * 66_560 + 10_000  # the archive's last 65 kB are read to find its directory, which is in them
    assert sum(end - start for start, end in parts) < 1.05 * sum(map(len, world.images.values())) + index


def test_the_index_and_the_annotations_are_read_once(tmp_path, world):
    with serve(tmp_path / "served") as server:
        run(started(tmp_path, server), "select")
        first = len(server.log)
        (tmp_path / "build" / "manifest.parquet").unlink()
        run(tmp_path / "build", "select")
        again = server.log[first:]
    assert len(again) <= 6, "length and end record of each archive, and the annotations' directory, but no member"
    kept = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept and not any(b"White" in data or b"female" in data for data in kept), "HaGRID's meta is not kept"


def test_with_faults_in_a_fifth_of_the_answers_every_image_is_the_same(tmp_path, world):
    world.write_images(tmp_path / "served" / "images.zip", gap=70_000)
    with serve(tmp_path / "served", stall=1.5) as server:
        quiet = started(tmp_path, server)
        run(quiet)
        undisturbed = stored(quiet)
        (tmp_path / "build").rename(tmp_path / "quiet")
        server.faults, server.seed = 0.2, 1
        out = started(tmp_path, server)
        reports = run(out)
        faults = {request.fault for request in server.log}
    assert not reports["fetch"].failed
    assert stored(out) == undisturbed
    assert len(faults) > 5, "several kinds of faults were met"


def test_a_mirror_takes_over_from_a_host_that_is_down_and_one_with_another_file(tmp_path, world):
    with serve(tmp_path / "served") as good, serve(tmp_path / "served", faults=1.0, kinds=("503",)) as down:
        (tmp_path / "served" / "other.zip").write_bytes(b"PK" + bytes(5000))
        out = started(tmp_path, good, [good.url("images.zip"), good.url("other.zip"), down.url("images.zip")])
        run(out, "select")
        table = read_manifest(out)
        facts = json.loads(table.schema.metadata[b"hand1000:sources"])
        (name,) = facts
        facts[name]["places"] = [down.url("images.zip"), good.url("other.zip"), good.url("images.zip")]
        metadata = {**table.schema.metadata, b"hand1000:sources": json.dumps(facts).encode()}
        write_table(table.replace_schema_metadata(metadata), out / "manifest.parquet")
        reports = run(out, "fetch")
    assert not reports["fetch"].failed
    assert set(stored(out)) == expected(world)


def test_an_archive_whose_etag_alone_changed_is_read_on(tmp_path, world):
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out, "select")
        chosen = read_manifest(out)
        server.version = "2"
        assert not run(out, "fetch")["fetch"].failed
        assert read_manifest(out).equals(chosen), "nothing was selected again"
    assert set(stored(out)) == expected(world)


def test_a_host_without_range_support_is_named_with_the_remedy(tmp_path, world):
    with serve(tmp_path / "served", ranges=False) as server, pytest.raises(UserError, match=r"--source\.whole"):
        run(started(tmp_path, server))


def test_a_host_without_range_support_is_downloaded_wholly_with_the_option(tmp_path, world):
    with serve(tmp_path / "served", ranges=False) as server:
        out = started(tmp_path, server)
        recipe = load(out / "recipe.toml")
        whole = dataclasses.replace(recipe, source=dataclasses.replace(recipe.source, whole=True))
        (out / "recipe.toml").write_text(dump(whole))
        run(out)
        assert set(stored(out)) == expected(world)
        assert set(read_manifest(out)["source"].to_pylist()) == {server.url("images.zip")}
        requests = len(server.log)
        run(out)
        assert len(server.log) == requests == 2


def test_a_second_run_sends_no_request(tmp_path, world):
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out)
        requests = len(server.log)
        run(out)
        assert len(server.log) == requests


def test_only_missing_images_are_fetched_again(tmp_path, world):
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out)
        requests = len(server.log)
        lost = sorted((out / "images").glob("*/*.jpg"))[:2]
        lost[0].unlink()
        lost[1].write_bytes(b"cut")
        run(out)
        assert 1 <= len(server.log) - requests <= 2
    assert set(stored(out)) == expected(world)


def test_a_hub_file_is_fetched_through_huggingface_hubs_address_and_token(tmp_path, world):
    repository = "datasets/someone/hands/resolve/main"
    with serve(tmp_path / "served") as cdn, serve(tmp_path) as hub:
        for name in ("annotations.zip", "images.zip"):
            hub.redirects[f"{repository}/{name}"] = cdn.url(name)
        source = {"kind": "hub", "images": "hf://datasets/someone/hands/images.zip"}
        source["annotations"] = "hf://datasets/someone/hands/annotations.zip"
        recipe = hagrid.write_recipe(tmp_path, source)
        command = [sys.executable, "-m", "handdata", "build", str(recipe), "--out", str(tmp_path / "build")]
        environment = {**os.environ, "HF_ENDPOINT": hub.url("").rstrip("/"), "HF_TOKEN": "hf_secret"}
        done = subprocess.run([*command, "--until", "fetch"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(stored(tmp_path / "build")) == 20
    assert all(request.headers["Authorization"] == "Bearer hf_secret" for request in hub.log)
    assert {request.path for request in hub.log} == set(hub.redirects), "nothing else is requested or sent"
    assert not any("hf_secret" in str(request.headers) for request in cdn.log)
    written = [path for path in (tmp_path / "build").rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in path.read_bytes() for path in written) and "hf_secret" not in done.stderr
    assert not any(cdn.url("").encode() in path.read_bytes() for path in written), "signed addresses are not kept"


def damaged(tmp_path: Path, change) -> tuple[Path, dict[str, str]]:
    """Build from an archive after `change(archive bytes, entry)` on one member; return the build and its failures."""
    path = tmp_path / "served" / "images.zip"
    with zipfile.ZipFile(path) as file:
        entry = file.infolist()[5]
        directory = file.start_dir
    data = bytearray(path.read_bytes())
    change(data, entry, data.find(entry.filename.encode(), directory) - 46)
    path.write_bytes(data)
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out)
    return out, failures(out)


def put(data: bytearray, place: int, code: str, value: int) -> None:
    struct.pack_into(code, data, place, value)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("wrong-crc", lambda data, entry, at: put(data, at + 16, "<I", 1)),
        ("wrong-header", lambda data, entry, at: put(data, entry.header_offset, "<I", 0)),
        ("wrong-size", lambda data, entry, at: put(data, at + 24, "<I", entry.file_size + 1)),
        ("too-large", lambda data, entry, at: put(data, at + 24, "<I", 3 << 30)),
        ("unsupported-member", lambda data, entry, at: put(data, at + 10, "<H", 12)),
        ("unsupported-member", lambda data, entry, at: put(data, at + 8, "<H", 1)),
    ],
)
def test_a_damaged_member_has_its_reason_and_nothing_else_is_lost(tmp_path, world, reason, change):
    out, failed = damaged(tmp_path, change)
    assert list(failed.values()) == [reason]
    assert len(stored(out)) == 47
    assert reason in REASONS


def rebuilt(tmp_path: Path, world: hagrid.World, name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> dict:
    """Build from an archive in which the last image's member has another name or content."""
    (gesture, image_id), _ = world.images.popitem()
    path = world.write_images(tmp_path / "served" / "images.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(zipfile.ZipInfo(name.format(gesture=gesture, image_id=image_id)), data, method)
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out)
    assert set(stored(out)) == expected(world), "all other images are there"
    failed = failures(out)
    assert list(failed) == [image_id]
    return failed[image_id]


def test_a_member_that_leaves_the_archive_is_refused(tmp_path, world):
    assert rebuilt(tmp_path, world, "../../{gesture}/{image_id}.jpg", hagrid.jpeg(1)) == "unsafe-name"
    assert not list(tmp_path.glob("*.jpg")) and not list(tmp_path.glob("call")) and not list(tmp_path.glob("ok"))


def test_a_truncated_photograph_differs_from_a_corrupt_one(tmp_path, world):
    whole = hagrid.jpeg(1, (640, 480))
    assert rebuilt(tmp_path, world, "{gesture}/{image_id}.jpg", whole[: len(whole) // 2]) == "image-truncated"


def test_a_zip_bomb_is_not_inflated(tmp_path, world):
    bomb = bytes(80 << 20)
    reason = rebuilt(tmp_path, world, "{gesture}/{image_id}.jpg", bomb, zipfile.ZIP_DEFLATED)
    assert reason == "too-large"


def test_a_bomb_with_a_wrong_size_is_inflated_no_further_than_it_declares(tmp_path, world):
    path = tmp_path / "served" / "images.zip"
    (gesture, image_id), _ = world.images.popitem()
    world.write_images(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(zipfile.ZipInfo(f"{gesture}/{image_id}.jpg"), bytes(80 << 20), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.rfind(f"{gesture}/{image_id}.jpg".encode()) - 46
    put(data, at + 24, "<I", 1000)
    path.write_bytes(data)
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out)
    assert failures(out) == {image_id: "wrong-size"}


def test_a_full_disk_ends_the_run_with_a_sentence_and_the_next_run_completes_it(tmp_path, world):
    """A tmpfs of 300 kB holds the build: the images, made 20 kB each, need about three times that."""
    world.images = {key: hagrid.jpeg(int(key[1][:8], 16), (320, 240), quality=97) for key in world.images}
    world.write_images(tmp_path / "served" / "images.zip")
    disk = tmp_path / "build"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: it takes root")
    try:
        with serve(tmp_path / "served") as server:
            out = started(tmp_path, server)
            run(out, "select")
            with pytest.raises((OSError, Unfinished)) as raised:
                run_without_space_check(out)
            assert raised.value.errno == errno.ENOSPC and "images" in raised.value.filename
            assert 0 < len(stored(out)) < 48
            kept = stored(out)
            assert not list(out.rglob(".*.partial"))
            subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
            requests = len(server.log)
            run(out, "fetch")
            assert set(stored(out)) == expected(world)
            assert kept.items() <= stored(out).items()
            assert len(server.log) - requests <= 48 - len(kept), "finished images are not fetched again"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def run_without_space_check(out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handdata.stages.fetch.require_room", lambda *_: None)
        run(out, "fetch")


def test_too_little_space_is_reported_before_the_first_image(tmp_path, world, monkeypatch):
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out, "select")
        requests = len(server.log)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
        with pytest.raises(Unfinished, match="fetching the images needs"):
            run(out, "fetch")
        assert len(server.log) == requests


@pytest.mark.slow
def test_400_of_4000_members_beyond_5_gib_come_for_their_own_bytes_and_through_faults_unchanged(tmp_path):
    """Every answer takes 50 ms. benchmarks/fetch.py compares the speed with remotezip's."""
    (tmp_path / "served").mkdir()
    world = hagrid.big_archive(tmp_path / "served" / "images.zip", 4000)
    records = world.records["train", "call"]
    world.records["train", "call"] = {name: records[name] for name in random.Random(0).sample(sorted(records), 400)}
    world.write_annotations(tmp_path / "served" / "annotations.zip")
    chosen = {"gestures": ["call"], "train": 400, "validation": 0, "test": 0, "spare": 0.0}
    with serve(tmp_path / "served", latency=0.05, stall=2.5) as server:
        out = started(tmp_path, server, chosen=chosen)
        assert not run(out)["fetch"].failed
        undisturbed = stored(out)
        assert len(undisturbed) == 400 and len(set(undisturbed.values())) == 400
        read = sum(end - start for start, end in server.parts_of("images.zip"))
        assert read <= 1.05 * 400 * 110_000
        out.rename(tmp_path / "quiet")
        server.faults = 0.2
        out = started(tmp_path, server, chosen=chosen)
        assert not run(out)["fetch"].failed
        met = [request.fault for request in server.log if request.fault]
    assert stored(out) == undisturbed
    assert set(met) == set(FAULTS) and len(met) > 80


KILLED = """
import pathlib, sys
from tests.handdata.stages.test_fetch import run
run(pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_at_20_moments_the_end_is_the_same_and_nothing_finished_is_fetched_twice(tmp_path, world):
    world.write_images(tmp_path / "served" / "images.zip", gap=70_000)
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out)
        undisturbed, shard = stored(out), pq.read_table(shard_path(out, "fetch", 0))
        out.rename(tmp_path / "quiet")
        offsets = {row["image_id"]: row["offset"] for row in read_manifest(tmp_path / "quiet").to_pylist()}
        server.latency = 0.05
        moments, kills = random.Random(0), 0
        out = started(tmp_path, server, options={"connections": 2})
        run(out, "select")
        while kills < 20:
            finished = {path.stem: path for path in (out / "images").glob("*/*.jpg")}
            before, wait_for = len(server.log), moments.randint(1, 8)
            with subprocess.Popen([sys.executable, "-c", KILLED, str(out)]) as process:
                while (ended := process.poll()) is None and len(server.log) < before + wait_for:
                    time.sleep(0.005)
                time.sleep(moments.uniform(0, 0.2))
                if ended is None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
            again = [(request.start, request.end) for request in server.log[before:] if request.path == "images.zip"]
            for image_id in finished:
                assert not any(start <= offsets[image_id] < end for start, end in again)
            if ended is not None:  # all are fetched: lose some, so that the next process has work to be killed at
                assert ended == 0
                for path in moments.sample(sorted(finished.values()), 40):
                    path.unlink()
        run(out)
    assert stored(out) == undisturbed
    assert pq.read_table(shard_path(out, "fetch", 0)).equals(shard)
    assert not list(out.rglob(".*.partial"))


def test_a_manifest_names_its_sources(tmp_path, world):
    with serve(tmp_path / "served") as server:
        out = started(tmp_path, server)
        run(out, "select")
    (facts,) = source_facts(read_manifest(out).schema).values()
    assert facts.places == (server.url("images.zip"),)
    assert facts.length == (tmp_path / "served" / "images.zip").stat().st_size
