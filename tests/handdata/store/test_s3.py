"""A build on an S3 service (moto's server): whole, in three parts that are killed, and under Ray on two workers."""

import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from handdata.assets import cache_folder
from handdata.recipe import RenderOptions
from handdata.world import render
from tests import ROOT
from tests.chat_server import chat_server, says
from tests.handdata.builds.test_whole_build import RECIPE, contents

pytest.importorskip("moto.server")
MODELS = ("hand_landmarker.task", "bpe_simple_vocab_16e6.txt.gz")  # that the stages read from the cache
pytestmark = pytest.mark.slow

SCRIPT = """
import os, random, sys, time
from pathlib import Path
from tests.small_shards import start

URL = "s3://hands/three"

def finish(*argv):
    processes = [start(words, Path(f"log{n}")) for n, words in enumerate(argv)]
    for n, process in enumerate(processes):
        process.join()
        if process.exitcode:
            sys.exit(f"{argv[n]}: {Path(f'log{n}').read_text()}")

def build(out, *flags):
    return ["build", sys.argv[1], "--out", out, *flags]

if __name__ == "__main__":
    finish(build("whole"))
    chance = random.Random(int(sys.argv[2]))
    for part in ("1/3", "2/3"):  # killed at a random moment, and run again with the others
        victim = start(build(URL, "--part", part), Path("victim"))
        victim.join(chance.uniform(0.5, 6))
        print("killed" if victim.is_alive() else "finished", part)
        victim.kill()
        victim.join()
    finish(*(build(URL, "--part", f"{i + 1}/3") for i in range(3)))
    finish(build(URL, "--join"))
    print(Path("log0").read_text())
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Run moto's server with an empty bucket `hands`; return the environment of processes that use it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/hands", method="PUT"), timeout=60).close()
                break
            except urllib.error.URLError:
                assert server.poll() is None and time.monotonic() < deadline, "moto's server does not start"
                time.sleep(0.2)
        aws = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "very-secret"}
        yield {
            **os.environ, **aws, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OPENAI_API_KEY": "",
            "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
    finally:
        server.kill()
        server.wait()
        log.close()


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


def dataset_of(cache: Path, copy: str = "whole") -> dict[str, str]:
    (folder,) = (cache / "builds").glob(f"*/{copy}/dataset")
    return contents(folder)


def test_parts_that_are_killed_and_ray_give_the_dataset_of_a_folder(tmp_path, recipe, service):
    (tmp_path / "script.py").write_text(SCRIPT)
    for cache in ("cache", "ray"):
        (tmp_path / cache).mkdir()
        for model in MODELS:
            (tmp_path / cache / model).symlink_to(cache_folder() / model)
    environment = {**service, "HAND1000_CACHE": str(tmp_path / "cache")}
    seed, begin = random.SystemRandom().randrange(1000), time.monotonic()
    done = subprocess.run(
        [sys.executable, "script.py", recipe, str(seed)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    print(f"seed {seed}, {time.monotonic() - begin:.0f} s: {done.stdout}")
    whole = contents(tmp_path / "whole/dataset")
    assert len(whole) > 5 and dataset_of(tmp_path / "cache") == whole
    assert not list((tmp_path / "cache/builds").glob("*/part-*/dataset")), "a part assembles nothing"

    ray = {**environment, "HAND1000_CACHE": str(tmp_path / "ray")}
    command = [sys.executable, "-m", "handdata", "build", recipe, "--out", "s3://hands/ray"]
    run = subprocess.run(
        [*command, "--engine", "ray", "--workers", "2"], env=ray, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    print(f"{time.monotonic() - begin:.0f} s")
    assert dataset_of(tmp_path / "ray") == whole
    kept = (tmp_path / "cache").rglob("*")
    texts = [path.read_bytes() for path in kept if path.suffix in (".json", ".toml", ".jsonl", ".md", ".store")]
    assert texts and not any(b"very-secret" in text for text in [*texts, done.stdout.encode(), run.stderr.encode()])
