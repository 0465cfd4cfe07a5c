"""The mini world is described by vision models of real classes with random weights, and by a server with one."""

import pytest

from handdata.builds.build import Build
from handdata.recipe import find, load, override
from handdata.rows.manifest import read_manifest
from handdata.rows.shards import read_shard
from tests import tiny_captioners
from tests.chat_server import chat_server, says

pytestmark = pytest.mark.slow

RENDER = {"train": 3, "validation": 1, "test": 1, "size": 64}
SELECT = {"gestures": ["call", "ok"], "train": 2, "validation": 0, "test": 1, "spare": 0.0}


def captions(build):
    ids = read_manifest(build.path)["image_id"].to_pylist()
    assert len(ids) == 6
    return read_shard(build.path, "captions", 0, ids)["caption"].to_pylist()


def test_two_vision_models_and_a_server_caption_the_mini_world_in_turn(tmp_path):
    recipe = override(load(find("mini")), render=RENDER, select=SELECT, caption={"max_new_tokens": 8, "device": "cpu"})
    build = Build.start(recipe, tmp_path / "build")
    build.run(until="facts", progress=False)
    found = {}
    with chat_server(lambda body: says(f"a picture, {len(str(body['messages'][-1]['content'][0]))} letters")) as server:
        for kind in (*tiny_captioners.FOLLOWING, "server"):
            table = {"model": "vlm", "server": server.url}
            if kind != "server":
                table = {"model": str(tiny_captioners.make(kind, tmp_path / kind, seed=1)), "server": ""}
            build = Build.start(build.recipe, build.path, caption=table)
            report = build.run(only="caption", progress=False)["caption"]
            assert report.made_shards == 1 and not report.failed, "another captioner is another key"
            found[kind] = captions(build)
        assert build.run(only="caption", progress=False)["caption"].kept_shards == 1
    assert len(server.requests) == 6
    assert all(len(set(texts)) > 1 for texts in found.values()), "pictures differ"
    assert len({tuple(texts) for texts in found.values()}) == 3
