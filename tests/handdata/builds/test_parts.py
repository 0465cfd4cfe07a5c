"""Parts of a build in processes of their own: the same dataset for every number of parts, killed or not."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handdata.builds import engine, status
from handdata.builds.build import Build
from handdata.builds.folder import BuildFolder
from handdata.errors import Unfinished, UserError
from handdata.recipe import RenderOptions
from handdata.rows.parts import Part, parts_of
from handdata.rows.shards import read_table, shard_path
from handdata.sources import journal
from handdata.sources.journal import Journal, Receipt, journal_path, read_receipts
from handdata.stages import Execution, fetch, select, stage_named
from handdata.world import render
from tests import ROOT
from tests.builds import make_build
from tests.chat_server import chat_server, says
from tests.faults.archives import QUIET, images, recipe_of, served, started
from tests.finished import finished_build
from tests.handdata.builds.test_whole_build import RECIPE, contents
from tests.range_server import serve

FACTS = stage_named("facts")


def part_of(text: str) -> Execution:
    return Execution(progress=False, part=Part.parse(text))


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "1/3 ", "-1/3", "\u0661/\u0663", "1/" + "9" * 9])
def test_a_part_that_does_not_exist_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"--part .*: write i/N with i from 1 to N, such as 2/7"):
        Part.parse(text)


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_every_shard_belongs_to_one_part(count):
    parts = [Part(number + 1, count) for number in range(count)]
    assert sorted(shard for part in parts for shard in part.shards(16)) == list(range(16))
    assert all([part for part in parts if part.holds(shard)] == parts_of([shard], count) for shard in range(16))
    assert max(len(part.shards(16)) for part in parts) - min(len(part.shards(16)) for part in parts) <= 1


def test_a_part_makes_its_own_shards_and_leaves_the_files_that_others_write(tmp_path):
    build = make_build(tmp_path, 600)
    report = engine.run(FACTS, None, build, part_of("2/3"))
    assert (report.rows, report.made_shards) == (256, 1)
    assert [path.name for path in (build / "facts").iterdir()] == ["00001.parquet"]
    of_other, own = (build / "facts" / f".0000{shard}.parquet.7.partial" for shard in (0, 1))
    of_other.touch()
    own.touch()
    assert engine.run(FACTS, None, build, part_of("2/3")).kept_shards == 1
    assert of_other.exists() and not own.exists()
    assert engine.run(FACTS, None, build, part_of("7/7")).rows == 0, "there are fewer shards than parts"


def test_receipts_of_parts_are_read_with_the_others_and_move_into_the_journal_of_the_build(tmp_path):
    receipts = [Receipt(name, "key", reason="image-corrupt") for name in "abc"]
    for receipt, part in zip(receipts, (None, Part(1, 2), Part(2, 2)), strict=True):
        kept = Journal(tmp_path, part)
        kept.add(receipt)
        kept.close()
    assert set(read_receipts(tmp_path)[0]) == {"a", "b", "c"} and len(list((tmp_path / "fetch").iterdir())) == 3
    with Journal(tmp_path, Part(2, 2)).path.open("a") as file:
        file.write('{"image_id": "d"')  # killed while it wrote
    Journal(tmp_path).close()
    assert list((tmp_path / "fetch").iterdir()) == [journal_path(tmp_path)]
    assert read_receipts(tmp_path) == ({receipt.image_id: receipt for receipt in receipts}, 0)


def test_parts_fetch_their_own_images_at_the_same_time(tmp_path, monkeypatch):
    for module in (fetch, journal):  # 14 images are five shards
        monkeypatch.setattr(module, "SHARD_ROWS", 3)
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = started(tmp_path, server.url("annotations.zip"), server.url("images.zip"))
        select.run(build, recipe_of(build), QUIET)
        first = fetch.run(build, recipe_of(build), part_of("1/2"))
        assert (first.rows, len(images(build))) == (8, 8), "shards 0, 2 and 4"
        with ThreadPoolExecutor() as pool:
            parts = [pool.submit(fetch.run, build, recipe_of(build), part_of(part)) for part in ("1/2", "2/2")]
            assert [part.result().failed for part in parts] == [{}, {}]
        assert fetch.run(build, recipe_of(build), part_of("9/9")).rows == 0, "there are fewer shards than parts"
        kept, requests = images(build), len(server.log)
        assert len(kept) == 14 and len(list((build / "fetch").glob("0*.parquet"))) == 5
        assert status.status(BuildFolder.open(build))["stages"]["fetch"]["done"] == 14
        fetch.run(build, recipe_of(build), QUIET)
        assert len(server.log) == requests and images(build) == kept, "the whole build finds all images finished"


def test_parts_share_the_folder_with_each_other_and_with_nobody_else(tmp_path):
    first, second = (Build.start("mini", tmp_path, part=f"{number}/2") for number in (1, 2))
    again, whole = Build.start("mini", tmp_path, part="1/2"), Build.open(tmp_path)
    with first.lock(), second.lock():
        with pytest.raises(UserError, match="is working on part 1/2 of"), again.lock():
            pass
        with pytest.raises(UserError, match=f"process {os.getpid()} is working on"), whole.lock():
            pass
    with whole.lock(), pytest.raises(UserError, match="is working on"), first.lock():
        pass


def test_all_parts_have_one_recipe_but_resources_of_their_own(tmp_path):
    Build.start("mini", tmp_path, part="1/2", select={"train": 7})
    before = (tmp_path / "recipe.toml").read_bytes()
    with pytest.raises(UserError, match=r"recipe\.toml is another recipe: give all parts"):
        Build.start("mini", tmp_path, part="2/2", select={"train": 8})
    other = Build.start("mini", tmp_path, part="2/2", select={"train": 7}, resources={"caption": {"workers": 3}})
    assert other.recipe.resources.caption.workers == 3 and (tmp_path / "recipe.toml").read_bytes() == before


def test_a_part_with_other_versions_is_refused_until_a_run_of_the_whole_build_accepts_them(tmp_path):
    build = Build.open(finished_build(tmp_path, {"train": 2, "validation": 0, "test": 0}))
    build.run(only="facts", progress=False)
    versions = build.record()["software"]["facts"]["versions"]
    assert versions["pillow"] and set(versions) == {"hand1000", "pillow", "numpy"}
    build.update_record({}, software={"facts": {"asked": {}, "versions": {**versions, "pillow": "1.0"}}})
    part = Build.start(build.recipe, tmp_path, part="1/2")
    with pytest.raises(UserError, match=rf"part 1/2 has pillow {versions['pillow']} instead of 1\.0 of the parts"):
        part.run(only="facts", progress=False)
    build.run(only="facts", progress=False)
    part.run(only="facts", progress=False)


def test_joining_names_the_parts_to_run_again(tmp_path):
    build = Build.open(finished_build(tmp_path, {"train": 150, "validation": 0, "test": 0}, size=16))
    build.update_record({}, parts=2)
    with pytest.raises(Unfinished, match=r"2 of 2 .* 'facts' .* from other inputs.* --part 1/2, --part 2/2, "):
        build.join(progress=False)  # the shards of this folder are written by hand
    build.run(only="facts", progress=False)
    shard_path(tmp_path, "fetch", 1).unlink()
    with pytest.raises(Unfinished, match=r"^1 of 2 shards of 'fetch' .* is missing\): .* with --part 2/2, then"):
        build.join(progress=False)


def test_a_shard_of_another_device_is_named_with_the_difference(tmp_path):
    caption = {"model": "mini-blip", "device": "cpu"}
    build = Build.start("mini", make_build(tmp_path, 2), caption=caption)
    build.run(only="caption", progress=False)
    other = Build.start("mini", tmp_path, caption=caption | {"dtype": "bfloat16"})
    with pytest.raises(Unfinished, match='made with dtype "float32" instead of "bfloat16"'):
        other._inspect(stage_named("caption"))
    assert build._inspect(stage_named("caption"))[0]["rows"] == 2


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("recipe")
    path = folder / "small.toml"
    render.draw(RenderOptions(gestures=("call", "ok"), train=6, validation=2, test=3, size=128), folder, workers=1)
    drawn = 'source = {kind = "zip", annotations = "annotations.zip", images = "{gesture}.zip"}'
    with chat_server(lambda request: says("no")) as server:
        text = RECIPE.replace('source = {kind = "render"}', drawn)
        path.write_text(text + f'rewrite = {{model = "any", server = "{server.url}", retries = 0}}\n')
        yield path


SCRIPT = """
import random, shutil, sys, time
from pathlib import Path
from tests.small_shards import start

def finish(*argv):
    processes = [start(words, Path(f"log{n}")) for n, words in enumerate(argv)]
    for n, process in enumerate(processes):
        process.join()
        if process.exitcode:
            sys.exit(f"{argv[n]}: {Path(f'log{n}').read_text()}")

def build(out, *flags):
    return ["build", sys.argv[1], "--out", out, *flags]

def parts(out, count):
    return [build(out, "--part", f"{i + 1}/{count}") for i in range(count)]

if __name__ == "__main__":
    finish(build("whole"))
    for count in (1, 3):
        finish(*parts(str(count), count))
        finish(build(str(count), "--join"))
    # seven parts, three at a time, one of them killed at random and run again
    commands, chance = parts("7", 7), random.Random(int(sys.argv[2]))
    finish(commands[0])
    victim = start(commands[1], Path("victim"))
    time.sleep(chance.uniform(0.2, 2))
    victim.kill()
    victim.join()
    print("killed" if victim.exitcode == -9 else "finished")
    finish(*commands[2:5])
    early = start(build("7", "--join"), Path("early"))
    early.join()
    assert early.exitcode == 1, early.exitcode
    print(Path("early").read_text())
    finish(commands[1], *commands[5:])
    finish(build("7", "--join"))
    # without a shared folder
    finish(*(build(f"apart{i}", "--part", f"{i}/2") for i in (1, 2)))
    shutil.copytree("apart2", "apart1", dirs_exist_ok=True)
    finish(build("apart1", "--join"))
"""


@pytest.mark.slow
def test_one_three_and_seven_parts_give_the_same_dataset(tmp_path, recipe):
    """Separate processes; of seven parts one is killed at a random moment and run again; two have folders apart."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "", "HF_HUB_OFFLINE": "1"}
    seed = random.SystemRandom().randrange(1000)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "script.py", recipe, str(seed)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    print(f"seed {seed}, {time.monotonic() - begin:.0f} s: {done.stdout}")
    assert "shards of 'fetch' are not finished" in done.stdout and "--part 6/7, --part 7/7, then" in done.stdout
    whole, record = contents(tmp_path / "whole/dataset"), Build.open(tmp_path / "whole").record()
    assert len(whole) > 5
    for name in ("1", "3", "7", "apart1"):
        joined = Build.open(tmp_path / name).record()
        assert [joined[key] for key in ("stages", "converted")] == [record[key] for key in ("stages", "converted")]
        assert contents(tmp_path / name / "dataset") == whole, name
        assert read_table(shard_path(tmp_path / name, "captions", 7)) is not None, "a build of eight shards"
    assert not list((tmp_path / "7").glob(".part*")) and not list((tmp_path / "7/fetch").glob("journal-*"))
