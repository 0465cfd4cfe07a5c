"""Images and shards that changed on disk: noticed, made again, and never published."""

import json
import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handdata.builds import engine, verify
from handdata.builds.build import Build
from handdata.errors import Unfinished, UserError
from handdata.rows.schema import shard_schema
from handdata.rows.shards import image_path, read_table, shard_path, stored_key, write_table
from handdata.sources.journal import journal_path
from handdata.stages import assemble, stage_named
from tests import hagrid
from tests.finished import QUIET, finished_build

COUNTS = {"train": 3, "validation": 1, "test": 2}


def flip(path: Path, seed: int, count: int = 8) -> None:
    """Flip bytes of a file in place; its size and time stay."""
    data, facts = bytearray(path.read_bytes()), path.stat()
    for place in random.Random(seed).sample(range(len(data)), min(count, len(data))):
        data[place] ^= 0x55
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fetched")
    world = hagrid.world(train=4)
    world.write_annotations(folder / "annotations.zip")
    world.write_images(folder / "images.zip")
    source = {"annotations": str(folder / "annotations.zip"), "images": str(folder / "images.zip")}
    build = Build.start(hagrid.write_recipe(folder, source, train=2), folder / "build")
    build.run(until="facts", progress=False)
    return folder / "build"


@pytest.fixture
def build(fetched, tmp_path) -> Path:
    return Path(shutil.copytree(fetched, tmp_path / "build"))


def images_of(build: Path) -> list[Path]:
    return sorted((build / "images").rglob("*.jpg"))


def swapped(first: Path, second: Path) -> None:
    """Give the first image the content of the second, padded or cut to the same size."""
    size, data = first.stat().st_size, second.read_bytes()
    first.write_bytes((data + bytes(size))[:size])


@pytest.mark.parametrize("change", ["one bit", "another person's picture", "a folder's worth"])
def test_a4_a_changed_image_of_the_same_size_is_fetched_again(build, change):
    before, images = contents(build / "images"), images_of(build)
    if change == "one bit":
        flip(images[1], 3, count=1)
    elif change == "another person's picture":
        swapped(images[0], images[2])
    else:
        for number, image in enumerate(images[:3]):
            flip(image, number)
    facts = shard_path(build, "facts", 0).read_bytes()
    Build.open(build).run(until="facts", progress=False)
    assert contents(build / "images") == before
    assert shard_path(build, "facts", 0).read_bytes() == facts


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a4_a_stage_run_alone_does_not_read_another_image_than_the_fetched_one(build, damage):
    image = images_of(build)[0]
    flip(image, 1) if damage == "changed" else image.unlink()
    with pytest.raises(Unfinished, match="is not the image that was fetched: run `handdata fetch"):
        engine.run(stage_named("facts"), None, build, QUIET)


@pytest.mark.parametrize("value", ["orig_width", "sha256", "bytes"])
def test_a4_a_changed_line_of_the_journal_counts_as_absent(build, value):
    shard = shard_path(build, "fetch", 0).read_bytes()
    lines = journal_path(build).read_text().splitlines()
    entry = json.loads(lines[2])
    entry[value] = entry[value][::-1] if isinstance(entry[value], str) else entry[value] + 1
    journal_path(build).write_text("\n".join([*lines[:2], json.dumps(entry), *lines[3:]]) + "\n")
    Build.open(build).run(only="fetch", progress=False)
    assert shard_path(build, "fetch", 0).read_bytes() == shard


@pytest.mark.parametrize("seed", range(4))
def test_a4_flipped_bytes_of_a_shard_are_noticed_wherever_they_are(tmp_path, seed):
    """Values, page headers, statistics, the schema, the key and the hash itself."""
    hand = [[0.1 * k, 0.02 * k, 0.0] for k in range(21)]
    row = {"handedness": ["Left"], "handedness_score": [0.9], "gesture_hand": 0, "landmarks_in_box": 1.0}
    rows = [{"image_id": str(n), "hand_landmarks": [hand], "reason": None, **row} for n in range(60)]
    table = pa.Table.from_pylist(rows, schema=shard_schema("landmarks")).replace_schema_metadata(
        {b"hand1000:key": b"k"}
    )
    path = tmp_path / "00000.parquet"
    write_table(table, path)
    whole = path.read_bytes()
    assert (
        read_table(path).to_pylist() == table.to_pylist() and read_table(path).schema.metadata == table.schema.metadata
    )
    assert stored_key(path) == "k"
    for place in random.Random(seed).sample(range(len(whole)), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << seed)]) + whole[place + 1 :])
        assert read_table(path) is None and stored_key(path) is None, place


@pytest.mark.parametrize("damage", ["flipped", "half", "another file", "not sealed"])
def test_a4_a_damaged_shard_is_made_again_with_the_same_bytes(build, damage):
    path = shard_path(build, "facts", 0)
    whole = path.read_bytes()
    if damage == "flipped":
        flip(path, 5)
    elif damage == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "another file":
        shutil.copyfile(shard_path(build, "fetch", 0), path)
    else:
        pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    report = engine.run(stage_named("facts"), None, build, QUIET)
    assert report.made_shards == 1 and path.read_bytes() == whole


@pytest.mark.parametrize("stage", ["landmarks", "texts"])
def test_a4_assemble_refuses_a_damaged_shard_and_names_the_command(tmp_path, stage):
    build = finished_build(tmp_path / "build", COUNTS)
    flip(shard_path(build, stage, 0), 2)
    command = {"landmarks": "landmarks", "texts": "rewrite"}[stage]
    with pytest.raises(UserError, match=rf"{stage}/00000\.parquet is missing or damaged: run `handdata {command} "):
        assemble.run(build, Build.open(build).recipe, QUIET)


def test_a4_verify_lists_what_is_damaged_and_the_run_makes_it_again(build, capsys):
    before, shard = contents(build / "images"), shard_path(build, "facts", 0)
    whole, image = shard.read_bytes(), images_of(build)[0]
    flip(image, 1)
    flip(shard, 2)
    found = verify.verify(Build.open(build))
    assert set(found.damaged) == {str(image), str(shard)}
    assert found.read == {"records": 1, "manifest": 1, "journal": 1, "images": len(before), "shards": 2}
    Build.open(build).run(until="facts", progress=False, verify=True)
    assert "2 are damaged or missing" in capsys.readouterr().err
    assert contents(build / "images") == before and shard.read_bytes() == whole
    assert verify.report(verify.verify(Build.open(build))).endswith("none is damaged")


def test_a4_verify_reads_the_models_of_the_hubs_cache(tmp_path):
    import hashlib

    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    small = b"{}"
    names = (
        hashlib.sha256(b"weights").hexdigest(),
        hashlib.sha1(b"blob 2\0" + small, usedforsecurity=False).hexdigest(),
    )
    for name, file, data in zip(names, ("model.safetensors", "config.json"), (b"weights", small), strict=True):
        (blobs / name).write_bytes(data)
        (snapshot / file).symlink_to(blobs / name)
    verify.verify_model(snapshot, "--caption.model")
    for name in names:
        whole = (blobs / name).read_bytes()
        (blobs / name).write_bytes(b"x" * len(whole))
        with pytest.raises(UserError, match=rf"--caption.model: the model file .*{name} is damaged: delete it"):
            verify.verify_model(snapshot, "--caption.model")
        (blobs / name).write_bytes(whole)


def test_a4_an_image_swapped_between_two_rows_is_not_published(tmp_path):
    build = finished_build(tmp_path / "build", COUNTS)
    first, second = (image_path(build, row["gesture"], row["image_id"]) for row in
                     pq.read_table(build / "manifest.parquet").to_pylist()[:2])  # fmt: skip
    swapped(first, second)
    with pytest.raises(Unfinished, match="has changed since it was measured"):
        assemble.run(build, Build.open(build).recipe, QUIET)
