"""Publishing to a folder and to the tests' Hub: whole or not at all, nothing stale, one sentence for every mistake."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from handdata.builds import upload as hub
from handdata.builds.build import Build
from handdata.errors import Unfinished, UserError
from handdata.rows import decisions
from handdata.stages import assemble
from tests.finished import QUIET, finished_build
from tests.hub_server import HubServer

SMALL = {"train": 3, "validation": 1, "test": 2}
NAME = "tester/hands"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = finished_build(tmp_path_factory.mktemp("finished") / "build", SMALL)
    assemble.run(folder, Build.open(folder).recipe, QUIET)
    return folder


@pytest.fixture
def build(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "build")
    return tmp_path / "build"


@pytest.fixture
def server(monkeypatch, tmp_path):
    with HubServer() as running:
        running.adopt(monkeypatch, tmp_path / "home")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield running


def local_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def data_files(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path.startswith("data/")}


def change(build: Path) -> str:
    """Take one published image out, one that the card shows, and assemble again; return its id."""
    gone = pq.read_table(build / "dataset/data/call/train-00000-of-00001.parquet")["image_id"][0].as_py()
    Build.open(build).drop(gone, progress=False)
    return gone


# to a folder


def test_a_folder_gets_the_dataset_and_its_own_name_in_the_card(build, tmp_path):
    done = Build.open(build).publish(str(tmp_path / "hands"))
    there, ours = local_files(tmp_path / "hands"), local_files(build / "dataset")
    assert data_files(there) == data_files(ours) and set(there) == set(ours)
    assert b'load_dataset("hands"' in there["README.md"] and b"USER/NAME" not in there["README.md"]
    assert done.rows == 12 and not list(tmp_path.glob(".hands.*"))


def test_publishing_again_leaves_nothing_stale(build, tmp_path):
    Build.open(build).publish(str(tmp_path / "hands"))
    gone = change(build)
    Build.open(build).publish(str(tmp_path / "hands"))
    there = local_files(tmp_path / "hands")
    assert data_files(there) == data_files(local_files(build / "dataset"))
    assert not any(gone.encode() in data for data in there.values())


def test_a_folder_with_other_content_is_refused_and_kept(build, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"'thesis\.txt', which publish did not write"):
        Build.open(build).publish(str(tmp_path / "mine"))
    assert local_files(tmp_path / "mine") == {"thesis.txt": b"mine"}


def test_a_full_disk_leaves_the_old_version_whole(build, tmp_path, monkeypatch):
    Build.open(build).publish(str(tmp_path / "hands"))
    before = local_files(tmp_path / "hands")
    change(build)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(Unfinished, match="GB are free: make room"):
        Build.open(build).publish(str(tmp_path / "hands"))
    monkeypatch.undo()

    def full(source, target):
        raise OSError(28, os.strerror(28), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):  # `program.main` turns it into a sentence
        Build.open(build).publish(str(tmp_path / "hands"))
    assert local_files(tmp_path / "hands") == before and not list(tmp_path.glob(".hands.*"))


def test_a_kill_between_the_two_renames_is_repaired(build, tmp_path):
    Build.open(build).publish(str(tmp_path / "hands"))
    (tmp_path / "hands").rename(tmp_path / ".hands.old")
    Build.open(build).publish(str(tmp_path / "hands"))
    assert data_files(local_files(tmp_path / "hands")) == data_files(local_files(build / "dataset"))


def test_an_old_missing_or_changed_dataset_is_not_published(build, tmp_path):
    image = pq.read_table(build / "manifest.parquet")["image_id"][0].as_py()
    path = build / "dataset" / "croissant.json"
    whole = path.read_text()
    path.write_text(whole + " ")
    with pytest.raises(UserError, match="was changed after it was made"):
        Build.open(build).publish(str(tmp_path / "hands"))
    path.write_text(whole)
    decisions.append(build, [decisions.Decision("rejected", image_id=image)])
    with pytest.raises(UserError, match="older than the build's rows: run `handdata assemble"):
        Build.open(build).publish(str(tmp_path / "hands"))
    shutil.rmtree(build / "dataset")
    with pytest.raises(UserError, match="not assembled yet"):
        Build.open(build).publish(str(tmp_path / "hands"))


# to the Hub


def test_the_hub_gets_one_commit_read_back_and_its_name_in_the_card(build, server):
    done = Build.open(build).publish(f"hf:{NAME}")
    files = server.files(NAME)
    assert data_files(files) == data_files(local_files(build / "dataset"))
    assert b'load_dataset("tester/hands"' in files["README.md"]
    assert [commit.title for commit in server.history(NAME)] == ["Publish 12 rows", "initial commit"]
    assert done.revision == server.history(NAME)[0].sha and done.rows == 12 and not done.remark
    listed = json.loads(files["checksums.json"])["files"]
    assert listed["README.md"]["bytes"] == len(files["README.md"])


def test_publishing_the_same_again_makes_no_commit(build, server):
    Build.open(build).publish(f"hf:{NAME}")
    Build.open(build).publish(f"hf:{NAME}")
    assert len(server.history(NAME)) == 2


def test_old_data_is_removed_in_the_same_commit_and_the_history_is_mentioned(build, server):
    Build.open(build).publish(f"hf:{NAME}")
    repo = server.repos["dataset", NAME]
    stale = repo.commits[repo.branches["main"]].files
    stale["data/call/train-00000-of-00002.parquet"] = server.store(b"left over", lfs=True)
    stale["notes.md"] = server.store(b"the owner's", lfs=False)
    change(build)
    done = Build.open(build).publish(f"hf:{NAME}")
    files = server.files(NAME)
    assert data_files(files) == data_files(local_files(build / "dataset")) and files["notes.md"] == b"the owner's"
    assert len(server.history(NAME)) == 3
    assert "the history still holds" in done.remark and "--purge-history" in done.remark


def test_purging_the_history_deletes_the_old_files_for_good(build, server):
    Build.open(build).publish(f"hf:{NAME}")
    gone = change(build).encode()
    assert any(gone in path.read_bytes() for path in server.blobs.iterdir())
    done = Build.open(build).publish(f"hf:{NAME}", purge_history=True)
    assert len(server.history(NAME)) == 1 and "cleared" in done.remark
    assert data_files(server.files(NAME)) == data_files(local_files(build / "dataset"))
    parquet = [path for path in server.blobs.iterdir() if path.read_bytes()[:4] == b"PAR1"]
    assert not any(gone in path.read_bytes() for path in parquet)


def test_other_branches_are_named_before_a_purge(build, server):
    Build.open(build).publish(f"hf:{NAME}")
    Build.open(build).publish(f"hf:{NAME}", revision="v2")
    with pytest.raises(UserError, match="--purge-history: v2 of tester/hands"):
        Build.open(build).publish(f"hf:{NAME}", purge_history=True)


def test_private_and_revision_are_as_requested(build, server):
    done = Build.open(build).publish(f"hf:{NAME}", private=True, revision="v2")
    repo = server.repos["dataset", NAME]
    assert repo.private and set(repo.branches) == {"main", "v2"} and done.place.endswith("/tree/v2")
    assert not data_files(server.files(NAME, "main"))
    assert data_files(server.files(NAME, "v2")) == data_files(local_files(build / "dataset"))


FAULTS = [
    ("PUT /lfs/", 500), ("PUT /lfs/", "drop"), ("PUT /lfs/", "lost"), ("PUT /lfs/", "wrong"), ("PUT /lfs/", 429),
    ("POST .*/lfs/objects/batch", 500), ("POST .*/lfs/objects/verify", 500), ("POST .*/preupload/", 429),
    ("POST .*/commit/", 500), ("POST .*/commit/", "drop"), ("POST .*/commit/", "lost"), ("POST .*/commit/", 429),
    ("POST /api/repos/create", 500), ("POST /api/repos/create", "lost"), ("GET /api/whoami-v2", 500),
    ("GET .*/tree/", 500), ("GET .*/tree/", "drop"), ("GET .*/resolve/.*parquet", 500), ("GET /cdn/", "cut"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "fault"), FAULTS)
def test_a_single_fault_of_the_server_does_not_matter(build, server, monkeypatch, request_, fault):
    monkeypatch.setattr(hub, "_PAUSES", (0.0, 0.0, 0.0))
    server.fail(request_, fault)
    Build.open(build).publish(f"hf:{NAME}")
    assert data_files(server.files(NAME)) == data_files(local_files(build / "dataset"))
    assert [commit.title for commit in server.history(NAME)] == ["Publish 12 rows", "initial commit"]


@pytest.mark.parametrize(
    ("request_", "fault", "sentence"),
    [
        ("PUT /lfs/", 500, "the Hub answered HTTP 500"),
        ("PUT /lfs/", "wrong", "the Hub answered HTTP 400"),
        ("POST .*/commit/", 429, "the Hub answered HTTP 429"),
        ("POST .*/commit/", "drop", "cannot be reached"),
        ("GET /api/whoami-v2", "drop", "cannot be reached"),
    ],
)
def test_a_lasting_fault_is_one_sentence_and_the_old_version_stays(
    build, server, monkeypatch, request_, fault, sentence
):
    monkeypatch.setattr(hub, "_PAUSES", (0.0, 0.0, 0.0))
    Build.open(build).publish(f"hf:{NAME}")
    before = server.files(NAME)
    change(build)
    server.fail(request_, fault, times=1000)
    with pytest.raises(Unfinished, match=sentence) as caught:
        Build.open(build).publish(f"hf:{NAME}")
    assert "run the same command again" in str(caught.value) and "\n" not in str(caught.value)
    assert server.files(NAME) == before
    server.faults.clear()
    Build.open(build).publish(f"hf:{NAME}")
    assert data_files(server.files(NAME)) == data_files(local_files(build / "dataset"))


def test_uploaded_files_are_not_uploaded_again(build, server, monkeypatch):
    monkeypatch.setattr(hub, "_PAUSES", ())
    server.fail("POST .*/commit/", 500)
    with pytest.raises(Unfinished):
        Build.open(build).publish(f"hf:{NAME}")
    sent = sum(line.startswith("PUT /lfs/") for line in server.log)
    Build.open(build).publish(f"hf:{NAME}")
    assert sum(line.startswith("PUT /lfs/") for line in server.log) == sent > 0


def test_a_token_that_expires_on_the_way_leaves_nothing_half_published(build, server, monkeypatch):
    server.fail("POST .*/commit/", 401)
    with pytest.raises(UserError, match="the Hub refuses this token"):
        Build.open(build).publish(f"hf:{NAME}")
    assert not data_files(server.files(NAME))


@pytest.mark.parametrize("name", ["hands", "a/b/c", "tester/ha nds", "tester/hands--x", "/hands", "tester/.x", "é/x"])
def test_a_malformed_name_is_reported_before_any_request(build, server, name):
    with pytest.raises(UserError, match="is not a name on the Hub; write hf:USER/NAME"):
        Build.open(build).publish(f"hf:{name}")
    assert not server.log


def test_a_missing_a_wrong_and_a_read_only_token_are_one_sentence_each(build, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_nobody")
    with pytest.raises(UserError, match="the Hub refuses this token") as caught:
        Build.open(build).publish(f"hf:{NAME}")
    assert "hf_secret" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(UserError, match="the token may not write to tester/hands"):
        Build.open(build).publish(f"hf:{NAME}")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no Hub token: run `hf auth login`"):
        Build.open(build).publish(f"hf:{NAME}")
    assert not server.repos


def test_a_repository_with_other_content_is_refused_and_kept(build, server):
    from huggingface_hub import HfApi

    HfApi().create_repo(NAME, repo_type="dataset")
    HfApi().upload_file(path_or_fileobj=b"a,b", path_in_repo="table.csv", repo_id=NAME, repo_type="dataset")
    with pytest.raises(UserError, match=r"holds other content \('table\.csv'\)"):
        Build.open(build).publish(f"hf:{NAME}")
    assert set(server.files(NAME)) == {".gitattributes", "table.csv"}


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(build, server, monkeypatch):
    Build.open(build).publish(f"hf:{NAME}")
    change(build)
    prepare = hub.Hub.prepare

    def and_then_somebody_writes(*arguments):
        head = prepare(*arguments)
        repo = server.repos["dataset", NAME]
        repo.commit("main", "theirs", dict(repo.commits[head].files), head)
        return head

    monkeypatch.setattr(hub.Hub, "prepare", and_then_somebody_writes)
    with pytest.raises(Unfinished, match="somebody else changed tester/hands meanwhile"):
        Build.open(build).publish(f"hf:{NAME}")
    assert server.history(NAME)[0].title == "theirs"


def test_options_for_the_hub_are_refused_for_a_folder(build, tmp_path):
    with pytest.raises(UserError, match="--private is for the Hub"):
        Build.open(build).publish(str(tmp_path / "hands"), private=True)
