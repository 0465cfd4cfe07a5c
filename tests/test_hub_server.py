"""The tests' own Hub answers the unmodified client as the Hub does, and fails where it is told to."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.hub_server import HubServer


@pytest.fixture
def hub():
    with HubServer(part_size=1000, page=2) as server:
        yield server


def client(hub: HubServer, token: str = "hf_tester"):
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.url, token=token)


@pytest.fixture(autouse=True)
def _lfs_only(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's pauses between its tries


def publish(hub: HubServer, files: dict[str, bytes], **options) -> str:
    from huggingface_hub import CommitOperationAdd

    api = client(hub)
    api.create_repo("tester/hands", repo_type="dataset", exist_ok=True)
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit("tester/hands", operations, commit_message="new", repo_type="dataset", **options).oid


FILES = {
    "README.md": b"---\nlicense: other\n---\nhands\n",
    "data/a.parquet": bytes(range(256)) * 20,
    "data/b.parquet": b"b",
}


def test_what_is_committed_is_listed_and_downloaded(hub, tmp_path):
    sha = publish(hub, FILES)
    api = client(hub)
    tree = api.list_repo_tree("tester/hands", repo_type="dataset", recursive=True)  # two entries a page
    assert {entry.path for entry in tree} == {".gitattributes", "README.md", "data", *FILES} - {"data/"}
    for path, data in FILES.items():
        local = api.hf_hub_download("tester/hands", path, repo_type="dataset", cache_dir=tmp_path)
        assert Path(local).read_bytes() == data and sha in local
    assert [commit.title for commit in hub.history("tester/hands")] == ["new", "initial commit"]


def test_a_range_and_a_cut_download_give_the_whole_file(hub, tmp_path):
    publish(hub, FILES)
    hub.fail("GET /cdn/", "cut")
    path = client(hub).hf_hub_download("tester/hands", "data/a.parquet", repo_type="dataset", cache_dir=tmp_path)
    assert Path(path).read_bytes() == FILES["data/a.parquet"]
    assert sum("/cdn/" in line for line in hub.log) == 2, "the second request asks for the rest"


@pytest.mark.parametrize("fault", [500, 429, "drop", "wrong"])
def test_a_broken_upload_is_not_what_is_committed(hub, fault):
    from huggingface_hub.errors import HfHubHTTPError

    hub.fail("PUT /lfs/", fault)
    try:
        publish(hub, FILES)
    except (RuntimeError, HfHubHTTPError):
        assert fault == "wrong", "the client tries the others again itself"
        assert set(hub.files("tester/hands")) == {".gitattributes"}
        publish(hub, FILES)
    assert hub.files("tester/hands")["data/a.parquet"] == FILES["data/a.parquet"]


def test_a_stale_parent_is_refused(hub):
    from huggingface_hub.errors import HfHubHTTPError

    first = publish(hub, FILES)
    publish(hub, {"data/b.parquet": b"bb"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="412"):
        publish(hub, {"data/b.parquet": b"bbb"}, parent_commit=first)


@pytest.mark.parametrize("token", ["hf_reader", "hf_nobody", False])
def test_only_its_owner_may_write(hub, token):
    from huggingface_hub.errors import HfHubHTTPError

    with pytest.raises(HfHubHTTPError):
        client(hub, token).create_repo("tester/hands", repo_type="dataset")
    assert not hub.repos


def test_it_runs_by_hand():
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub_server"], cwd=ROOT, stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
    )
    line = process.stdout.readline()
    process.terminate()
    process.communicate()
    assert line.startswith("export HF_ENDPOINT=http://127.0.0.1:")
