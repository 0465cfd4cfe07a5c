"""Stores below a URL, with a folder in the place of the service: copies, locks, addresses, fetching on two machines."""

import os
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs

from handdata.builds.build import Build
from handdata.errors import Unfinished, UserError
from handdata.sources.journal import journal_path
from handdata.stages import Execution, fetch, select
from handdata.store import claims
from handdata.store.claims import LEASE
from handdata.store.folder import Folder
from handdata.store.objects import Objects
from handdata.store.store import everything, open_store
from handdata.store.url import UrlStore
from tests.faults.archives import QUIET, images, recipe_of, served, started
from tests.range_server import serve

URL = "s3://bucket/hands"


@pytest.fixture(autouse=True)
def service(tmp_path, monkeypatch) -> Path:
    """Return a folder that holds the objects instead of S3; they are under `bucket/hands`."""
    folder = tmp_path / "service"
    (folder / "bucket/hands").mkdir(parents=True)
    monkeypatch.setattr(Objects, "_files", fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()))
    put = Objects.put

    def put_below_new_folders(self: Objects, name: str, data: bytes) -> None:
        (folder / "bucket/hands" / name).parent.mkdir(parents=True, exist_ok=True)
        put(self, name, data)

    monkeypatch.setattr(Objects, "put", put_below_new_folders)
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    return folder / "bucket/hands"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_put_appears_to_the_other_machine_and_a_removed_file_is_removed_there(tmp_path, service):
    here, there = UrlStore(URL, tmp_path / "here"), UrlStore(URL, tmp_path / "there")
    shard = write(here.folder / "facts/00003.parquet", "rows")
    image = write(here.folder / "images/ok/a.jpg", "image")
    here.put(shard, image, here.folder / "run.json")  # run.json does not exist
    assert names(service) == {"facts/00003.parquet", "images/ok/a.jpg"}
    there.bring_all(lambda name: not name.startswith("images/"))
    assert names(there.folder) == {"facts/00003.parquet"}
    there.bring(there.folder / "images/ok/a.jpg", there.folder / "run.json")
    assert (there.folder / "images/ok/a.jpg").read_text() == "image"
    there.remove(there.folder / "images/ok/a.jpg")
    here.bring(image)
    assert not image.exists() and names(service) == {"facts/00003.parquet"}


def test_only_changed_files_are_put_and_an_image_of_another_size_is_replaced(tmp_path, service):
    store = UrlStore(URL, tmp_path / "here")
    record, image = write(store.folder / "run.json", "1"), write(store.folder / "images/ok/a.jpg", "image")
    store.put(record)
    (service / "run.json").write_text("of another process")
    store.put(record)
    assert (service / "run.json").read_text() == "of another process", "this process has nothing new"
    write(record, "22")
    store.put(record)
    assert (service / "run.json").read_text() == "22"
    write(service / "images/ok/a.jpg", "half")
    store.put_missing([image, store.folder / "images/ok/none.jpg"])
    assert (service / "images/ok/a.jpg").read_text() == "image"


def test_files_that_are_not_the_builds_are_neither_read_nor_removed(tmp_path, service):
    foreign = {"notes.txt", "dataset/README.md", "images/ok/a.png", "locks/build/x", "facts/1.parquet"}
    for name in foreign | {"facts/00000.parquet", "recipe.toml"}:
        write(service / name, "x")
    store = UrlStore(URL, tmp_path / "here")
    store.bring_all(everything)
    assert names(store.folder) == {"facts/00000.parquet", "recipe.toml"}
    (store.folder / "facts/00000.parquet").unlink()
    store.mirror(everything)
    assert names(service) == foreign | {"recipe.toml"}
    (store.folder / "recipe.toml").unlink()
    store.mirror(lambda name: name.endswith(".parquet"))
    assert "recipe.toml" in names(service)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3://key:geheim@bucket/hands", "without passwords"),
        ("s3://key:geheim@bucket/hands?region=x", "without passwords"),
        ("s3://bucket/hands?secret_key=geheim", "without passwords"),
        ("s3:/bucket", "must be s3://BUCKET/NAME"),
        ("gs://bucket/../geheim", "must be gs://BUCKET/NAME"),
        ("https://geheim@host/build", "a build cannot be under https://"),
    ],
)
def test_other_addresses_are_refused_without_showing_them(place, words, tmp_path):
    with pytest.raises(UserError, match=words) as refused:
        Build.start("mini", place)
    assert "geheim" not in str(refused.value) and not (tmp_path / "cache").exists()


def test_an_address_that_was_a_path_is_the_same_and_its_copy_knows_it(tmp_path):
    stores = [open_store(place) for place in (URL, Path(URL), f"{URL}/")]
    assert {(store.place, store.folder) for store in stores} == {(URL, stores[0].folder)}
    assert open_store(stores[0].folder).place == URL, "commands on the copy use the store"
    assert open_store(URL, "2/7").folder != stores[0].folder
    assert isinstance(open_store(tmp_path), Folder) and isinstance(open_store("s3"), Folder)


def test_a_build_below_a_url_has_the_locks_of_a_folder():
    first, second, whole = (Build.start("mini", URL, part=part) for part in ("1/2", "2/2", None))
    again = Build.start("mini", URL, part="1/2")
    with first.lock(), second.lock():
        with pytest.raises(UserError, match=f"process {os.getpid()} on .* part 1/2 of {URL}"), again.lock():
            pass
        with pytest.raises(UserError, match=f"is working on {URL}: wait for it"), whole.lock():
            pass
    with whole.lock(), pytest.raises(UserError, match="is working on"), first.lock():
        pass
    with again.lock(), second.lock():
        pass


def abandoned(service: Path, owner: str, seconds: float) -> Path:
    claim = write(service / "locks/build" / owner, "held")
    os.utime(claim, (time.time() - seconds,) * 2)
    return claim


def test_the_claim_of_a_process_that_was_killed_is_removed(tmp_path, service, monkeypatch):
    store = UrlStore(URL, tmp_path)
    held = abandoned(service, "00000000-77-aaaa-elsewhere", LEASE - 5)
    with pytest.raises(UserError, match="process 77 on elsewhere is working"), store.lock(None):
        pass
    old = abandoned(service, "00000000-77-aaaa-elsewhere", LEASE + 5)
    monkeypatch.setattr(claims.os, "kill", lambda process, _: (_ for _ in ()).throw(ProcessLookupError))
    ended = abandoned(service, f"{claims._machine()}-77-aaaa-here", 0)
    with store.lock(None):
        assert not old.exists() and not ended.exists() and held == old
    assert names(service) == set()


def test_a_claim_is_renewed_and_a_process_that_stood_still_ends_with_a_sentence(tmp_path, service, monkeypatch):
    store = UrlStore(URL, tmp_path)
    monkeypatch.setattr(claims, "_RENEWAL", 0.05)
    with store.lock(None):
        claim = next((service / "locks/build").iterdir())
        os.utime(claim, (0, 0))
        deadline = time.monotonic() + 20
        while claim.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert claim.stat().st_mtime > 0
    monkeypatch.setattr(claims, "LEASE", -1.0)  # any time is too long
    with pytest.raises(Unfinished, match="stood still"), claims.claimed(Objects(URL), "x", lambda _: False, None):
        time.sleep(0.3)
    assert names(service) == set()


def test_one_process_at_a_time_holds_an_exclusive_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_PAUSE", (0.001, 0.02))
    inside, most = [], []

    def work(number: int) -> None:
        for _ in range(3):
            with UrlStore(URL, tmp_path).exclusive("record"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 12


def test_parts_keep_one_record_below_a_url():
    first, second = (Build.start("mini", URL, part=f"{number}/2", select={"train": 7}) for number in (1, 2))
    assert first.settle("pins", "caption", {"model": "m"}, {"commit": "a"})["commit"] == "a"
    assert second.settle("pins", "caption", {"model": "m"}, {"commit": "b"})["commit"] == "a"
    second.update_record({}, parts=2)
    first.update_record({"select": {"rows": 3}})
    record = Build.open(URL).record()
    assert (record["parts"], record["stages"]) == (2, {"select": {"rows": 3}})
    with pytest.raises(UserError, match="another recipe"):
        Build.start("mini", URL, part="2/2", select={"train": 8})


def test_images_that_another_machine_fetched_are_not_fetched_again(tmp_path, service):
    served(tmp_path / "served")
    with serve(tmp_path / "served") as server:
        build = started(tmp_path, server.url("annotations.zip"), server.url("images.zip"))
        select.run(build, recipe_of(build), QUIET)
        here, there = UrlStore(URL, build.absolute()), UrlStore(URL, tmp_path / "there")
        here.put(build / "manifest.parquet", build / "recipe.toml")
        fetch.run(build, recipe_of(build), Execution(progress=False, store=here))
        kept, requests = images(build), len(server.log)
        assert len(list((service / "images").rglob("*.jpg"))) == 14 and (service / "fetch/00000.parquet").is_file()
        assert (service / "fetch/journal.jsonl").read_bytes() == journal_path(build).read_bytes()
        there.bring_all(lambda name: not name.startswith("images/"))
        lost = next((service / "images").rglob("*.jpg"))
        lost.unlink()
        report = fetch.run(there.folder, recipe_of(build), Execution(progress=False, store=there))
        assert report.made_rows == 1 and len(server.log) > requests, "the image that the store lost"
        assert images(there.folder) == kept and lost.is_file()


def test_credentials_and_addresses_with_passwords_are_not_printed(monkeypatch):
    class Broken:
        def open_input_stream(self, name: str) -> None:
            raise OSError("AWS Error ACCESS_DENIED: https://key:geheim@host/x?X-Amz-Signature=geheim")

    objects = Objects(URL)
    objects.__dict__["_files"] = Broken()
    monkeypatch.setattr(Objects, "_files", Broken())
    with pytest.raises(UserError, match="check the URL, the bucket, and the credentials") as denied:
        objects.read("run.json")
    assert "geheim" not in str(denied.value)


def test_an_endpoint_with_a_password_is_refused(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:geheim@127.0.0.1:9")
    with pytest.raises(UserError, match=r"AWS_ENDPOINT_URL http://127\.0\.0\.1:9 is not valid") as refused:
        Objects(URL).read("run.json")
    assert "geheim" not in str(refused.value)
