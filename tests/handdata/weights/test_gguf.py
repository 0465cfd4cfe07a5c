"""GGUF files on the Hub: pinned by commit and hash, fetched once, and refused where they are gated or damaged."""

import hashlib
import json
from dataclasses import replace

import pytest

from handdata.builds.build import Build
from handdata.errors import Unfinished, UserError
from handdata.recipe import CaptionOptions, RewriteOptions
from handdata.stages import stage_named
from handdata.stages.caption import Captions
from handdata.stages.rewrite import Rewriting
from handdata.weights.gguf import gguf_file, hub_file, pinned
from tests.hub_server import HubServer
from tests.tiny_captioners import make

DATA = b"GGUF and a few weights"
NAME = "hf:maker/tiny/parts/tiny.gguf"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as server:
        server.adopt(monkeypatch, tmp_path / "home")
        server.host("maker/tiny", {"parts/tiny.gguf": DATA, "config.json": b"{}"}, licence="llama3")
        yield server


def test_a_name_of_a_file_on_the_hub_is_its_repository_path_and_revision():
    file = hub_file(RewriteOptions(NAME))
    assert (str(file.name), file.path) == ("hf:maker/tiny@main", "parts/tiny.gguf")
    assert hub_file(RewriteOptions(f"{NAME}@v2")).name.revision == "v2"
    assert hub_file(RewriteOptions(f"{NAME}@v2", revision="abc")).name.revision == "abc", "the pinned commit counts"
    assert hub_file(RewriteOptions("smollm2-135m")) is None
    assert hub_file(RewriteOptions(NAME, "http://127.0.0.1:9/v1")) is None, "a server's own name of a model"
    named = hub_file(RewriteOptions())
    assert named.path == "Meta-Llama-3-8B-Instruct.Q4_K_M.gguf", "the default is LLaMA 3 8B Instruct"
    for wrong in ("hf:maker/tiny", "hf:tiny.gguf", "hf:maker/tiny/a*.gguf"):
        with pytest.raises(UserError, match=r"write hf:USER/NAME/FILE\.gguf"):
            hub_file(RewriteOptions(wrong))


def test_a_file_on_the_hub_is_pinned_by_its_commit_and_the_hash_of_the_listing(hub):
    options = pinned(RewriteOptions(NAME))
    assert options.revision == hub.history("maker/tiny", kind="model")[0].sha
    assert options.sha256 == hashlib.sha256(DATA).hexdigest()
    assert gguf_file(options).read_bytes() == DATA
    requests = len(hub.log)
    assert gguf_file(options).read_bytes() == DATA and len(hub.log) == requests, "it is in the cache"
    assert Rewriting.fingerprint(options)["sha256"] == options.sha256
    assert Rewriting.fingerprint(options)["model"] == "tiny.gguf"


def test_a_build_keeps_commit_and_hash_when_the_branch_moves(hub, tmp_path):
    build = Build.start("mini", tmp_path / "build", rewrite={"model": NAME})
    first = build._options(stage_named("rewrite"), Rewriting)
    hub.host("maker/tiny", {"parts/tiny.gguf": b"GGUF, retrained"})
    assert build._options(stage_named("rewrite"), Rewriting) == first
    pin = json.loads((tmp_path / "build" / "run.json").read_text())["pins"]["rewrite"]
    assert pin["commit"] == first.revision and pin["sha256"] == hashlib.sha256(DATA).hexdigest()


def test_another_hash_than_the_recipes_or_the_hubs_is_refused(hub, tmp_path):
    with pytest.raises(UserError, match=r"--rewrite\.sha256 .* is not that of parts/tiny\.gguf"):
        pinned(RewriteOptions(NAME, sha256="0" * 64))
    options = pinned(RewriteOptions(NAME))
    blob = gguf_file(options).resolve()
    blob.write_bytes(b"GGUF and a few weightz")
    with pytest.raises(Unfinished, match="is damaged: delete it"):
        gguf_file(options)
    blob.unlink()
    assert gguf_file(options).read_bytes() == DATA
    own = tmp_path / "own.gguf"
    own.write_bytes(DATA)
    assert gguf_file(RewriteOptions(str(own), sha256=options.sha256)) == own
    with pytest.raises(UserError, match="does not have the hash"):
        gguf_file(RewriteOptions(str(own), sha256="0" * 64))


def test_a_missing_file_or_repository_is_one_sentence(hub):
    with pytest.raises(UserError, match=r"has no file small\.gguf; it has parts/tiny\.gguf"):
        pinned(RewriteOptions("hf:maker/tiny/small.gguf"))
    with pytest.raises(UserError, match="is not on the Hub, or private"):
        pinned(RewriteOptions("hf:maker/none/tiny.gguf"))


def test_a_gated_model_is_refused_until_its_terms_are_accepted(hub, tmp_path, monkeypatch):
    repo = hub.host("maker/gated", {"tiny.gguf": DATA}, gated=True)
    options = RewriteOptions("hf:maker/gated/tiny.gguf")
    with pytest.raises(UserError, match="is gated: accept its terms on the Hub"):
        pinned(options)
    assert not [line for line in hub.log if "/resolve/" in line or "/cdn/" in line], "nothing was fetched"
    repo.accepted.add("tester")
    assert gguf_file(pinned(options)).read_bytes() == DATA
    hub.host("maker/gated-captioner", make("blip", tmp_path / "blip"), gated=True)
    with pytest.raises(UserError, match=r"--caption\.model .* is gated: accept its terms"):
        Captions.at_commit(CaptionOptions("maker/gated-captioner"))


def test_texts_made_before_the_new_options_existed_keep_their_key(monkeypatch):
    monkeypatch.setattr("handdata.stages.rewrite.gguf_hash", lambda options: "0" * 64)
    options = RewriteOptions("m.gguf")
    before = {
        "model", "prompt", "template", "retries", "temperature", "max_tokens", "parallel", "grammar", "seed",
        "sha256", "date", "gestures",
    }  # fmt: skip
    assert set(Rewriting.fingerprint(options)) == before
    changed = replace(options, extra_body='{"top_k": 1}', send_temperature=False)
    assert set(Rewriting.fingerprint(changed)) - before == {"extra_body", "send_temperature"}
