"""Fault B1: passwords and signatures of source URLs are seen by the request alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from handdata.builds.folder import BuildFolder
from handdata.cli import program
from handdata.errors import Unfinished, UserError
from handdata.recipe import SourceOptions
from handdata.rows.manifest import read_manifest, source_facts
from handdata.sources.places import addresses
from handdata.stages import Execution, fetch
from handdata.web.urls import identity_url, public_url, without_secrets
from tests.faults.archives import fetched, holding, recipe_of, served, started
from tests.range_server import serve


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("place", "public"),
    [
        ("https://anna:s3cret@host.org/a.zip", "https://host.org/a.zip"),
        ("https://host.org:8443/a.zip?sv=1&sig=s3cret#part", "https://host.org:8443/a.zip"),
        ("HTTP://token-s3cret@host.org/a@b.zip", "HTTP://host.org/a@b.zip"),
        ("https://anna:s3/cr?et@host.org/a.zip", "https://host.org/a.zip"),
        ("https://anna:s3cret@[::1/a.zip?x=s3cret", "https://[::1/a.zip"),
        ("ftp://anna:s3cret@host/a.zip", "ftp://host/a.zip"),
        ("s3://key:s3cret@bucket/a.zip", "s3://bucket/a.zip"),
        ("hf://datasets/anna/hands@v2/a.zip", "hf://datasets/anna/hands@v2/a.zip"),
        ("/data/what?/a#b@c.zip", "/data/what?/a#b@c.zip"),
        ("call.zip", "call.zip"),
    ],
)
def test_b1_the_public_form_of_a_place(place, public):
    assert public_url(place) == public
    assert public_url(public) == public


def test_b1_a_sentence_keeps_its_words_and_loses_the_secrets():
    sentence = "no place (https://a:s3cret@h/x.zip?sig=s3cret: HTTP 403; 'http://h/y?k=s3cret'), see https://h/docs."
    assert without_secrets(sentence) == "no place (https://h/x.zip: HTTP 403; 'http://h/y'), see https://h/docs."


def test_b1_a_renewed_signature_is_the_same_file_and_another_id_is_another():
    signed = "https://h/x.zip?id=7&X-Goog-Signature={}&Expires={}"
    assert identity_url(signed.format("a", 1)) == identity_url(signed.format("b", 2))
    assert identity_url("https://h/get?id=7") != identity_url("https://h/get?id=8")
    assert identity_url("https://h/get?design=7") != identity_url("https://h/get?design=8")


@pytest.mark.parametrize(
    "name",
    [
        "AWSAccessKeyId",
        "X-Amz-Date",
        "x-oss-signature",
        "Key-Pair-Id",
        "Policy",
        "sv",
        "access_token",
        "api_key",
        "exp",
    ],
)
def test_b1_parameters_of_the_usual_hosts_do_not_identify_a_file(name):
    assert identity_url(f"https://h/x.zip?{name}=a&part=1") == identity_url(f"https://h/x.zip?part=1&{name}=b")


def test_b1_a_whole_build_holds_a_secret_in_its_recipe_only(tmp_path, capsys):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        signed = server.url("images.zip").replace("//", "//anna:s3cret@") + "?Policy=s3cret"
        build = started(tmp_path, server.url("annotations.zip?token=s3cret"), signed)
        assert not fetched(build, execution=Execution(progress=True)).failed
        assert all("s3cret" not in request.path for request in server.log), "the server's log drops the query"
        public = server.url("images.zip")
    assert set(read_manifest(build)["source"].to_pylist()) == {public}
    (facts,) = source_facts(read_manifest(build).schema).values()
    assert facts.places == (public,) and list(facts.identities) == [public]
    assert holding(build, b"s3cret") == ["recipe.toml"] and holding(tmp_path / "cache", b"s3cret") == []
    output = capsys.readouterr()
    assert "s3cret" not in output.out + output.err


@pytest.mark.parametrize(
    "place", ["{0}gone.zip?se=s3cret", "http://anna:s3cret@127.0.0.1:9/x.zip", "http://x:s3cret@[::1"]
)
def test_b1_errors_name_the_public_form(tmp_path, place):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = started(tmp_path, server.url("annotations.zip"), place.format(server.url("")))
        with pytest.raises((UserError, Unfinished)) as raised:
            fetched(build)
    assert "s3cret" not in str(raised.value) and "://" in str(raised.value)


def test_b1_a_new_signature_in_the_recipe_selects_nothing_again_and_resumes(tmp_path):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = started(tmp_path, server.url("annotations.zip"), server.url("images.zip?Signature=old"))
        fetched(build)
        before = (build / "manifest.parquet").read_bytes()
        BuildFolder.start(recipe_of(build, images=(server.url("images.zip?Signature=new"),)), build)
        requests = len(server.log)
        fetched(build)
        assert len(server.log) == requests and (build / "manifest.parquet").read_bytes() == before


def test_b1_archives_that_differ_in_their_query_alone_stay_apart():
    options = SourceOptions(annotations=("a.zip",), images=("https://u:pw@h/get?f={gesture}&sig=1",))
    known = addresses(options, ("call", "ok"), Path("/"))
    assert known == {
        "https://h/get": {"https://h/get": "https://u:pw@h/get?f=call&sig=1"},
        "https://h/get#2": {"https://h/get": "https://u:pw@h/get?f=ok&sig=1"},
    }


def test_b1_the_command_line_prints_no_secret_of_a_wrong_recipe(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "x"\n[source]\nkind = "hub"\nimages = ["https://u:s3cret@h/x.zip"]\nannotations = "a"\n')
    command = [sys.executable, "-m", "handdata", "build", str(recipe), "--out", str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "s3cret" not in done.stderr + done.stdout


def test_b1_help_shows_the_places_of_a_recipe_without_their_secrets(tmp_path, capsys):
    recipe = tmp_path / "r.toml"
    places = ["https://u:s3cret@h.org/x.zip?sig=s3cret", "https://h.org/y.zip#s3cret"]
    recipe.write_text(f'name = "x"\n[source]\nimages = {places}\nannotations = {places}\n')
    with pytest.raises(SystemExit):
        program.main("handdata", "", {"build": ""}, ["build", str(recipe), "--help"])
    printed = capsys.readouterr().out
    assert "h.org/x.zip" in printed and "s3cret" not in printed


def test_b1_receipts_of_rows_that_no_server_returned_name_the_public_form(tmp_path):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = started(tmp_path, server.url("annotations.zip"), server.url("images.zip?key=s3cret"))
        recipe = recipe_of(build)
        fetched(build, recipe)
        for path in (build / "images").glob("*/*.jpg"):
            path.unlink()
        server.faults, server.kinds = 1.0, ("503",)
        with pytest.raises(Unfinished):
            fetch.run(build, recipe, Execution(progress=False))
    lines = [json.loads(line) for line in (build / "fetch" / "journal.jsonl").read_text().splitlines()]
    assert any(line.get("reason") == "not-fetched" for line in lines)
    assert holding(build, b"s3cret") == ["recipe.toml"]
