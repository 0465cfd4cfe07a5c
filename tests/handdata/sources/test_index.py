"""Finding members whatever the archive's layout, and the cache of remote directories."""

import zipfile

import pytest

from handdata.errors import UserError
from handdata.recipe import FetchOptions
from handdata.sources import index
from handdata.sources.archive import LocalFile
from handdata.sources.http import Client
from handdata.sources.places import Archive
from tests import hagrid
from tests.range_server import serve


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "cache"))
    client = Client(FetchOptions(backoff=0.01, timeout=1))
    yield client
    client.close()


@pytest.mark.parametrize(
    ("member", "gesture", "only", "fits"),
    [
        (b"HaGRIDv2_dataset_512/call/x.jpg", "call", None, True),
        (b"HaGRIDv2_dataset_512/like/x.jpg", "call", None, False),
        (b"hagrid_30k/train_val_call/x.jpg", "call", None, True),
        (b"test/two up/x.jpg", "two_up", None, True),
        (b"hands_heart2/x.jpg", "hand_heart2", None, True),
        (b"images/x.jpg", "call", None, True),
        (b"x.jpg", "call", None, True),
        (b"anything/like/x.jpg", "call", "call", True),
    ],
)
def test_a_member_belongs_to_the_gesture_of_its_folder(member, gesture, only, fits):
    assert index.gesture_fits(member, gesture, only) is fits


def test_a_folder_is_searched_at_any_depth(tmp_path):
    hagrid.world().write_folder(tmp_path / "a" / "b")
    name = hagrid.image_id("call", "train", 0)
    folder = index.FolderIndex(tmp_path)
    ((value, position, member),) = folder.find({name.encode(): 7})
    assert value == 7 and member.decode() == f"a/b/images/call/{name}.jpg"
    entry = folder.entry(position)
    assert entry.size == len(hagrid.jpeg(int(name[:8], 16))) and entry.method == entry.offset == -1


def test_a_remote_directory_is_read_once_and_again_when_the_file_changes(tmp_path, client):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for number in range(2000):
            zipped.writestr(f"HaGRIDv2_dataset_512/call/{number}.jpg", b"x" * 50)
    with serve(tmp_path) as server:
        source = Archive((server.url("a.zip"),))
        first = index.read_index(index.open_place(source, client))
        assert [value for value, _, _ in first.find({b"77": 1})] == [1]
        assert len(server.log) == 2, "the end of the file, then the directory"
        second = index.read_index(index.open_place(source, client))
        assert second.directory.data[:] == first.directory.data[:]
        assert len(server.log) == 3, "only the end of the file"
        server.version = "2"
        index.read_index(index.open_place(source, client))
        assert len(server.log) == 5


def test_a_large_remote_directory_that_comes_damaged_is_read_again_and_not_kept(tmp_path, client):
    from benchmarks.fetch import write_archive_end

    write_archive_end(tmp_path / "a.zip", 70_000)
    with serve(tmp_path, kinds=("wrong",)) as server:
        file = client.open(server.url("a.zip"))
        server.first_bad = 1
        archive_index = index.read_index(file)
        assert sum(1 for _ in archive_index.find({})) == 0
        parts = [(request.start, request.end) for request in server.log]
        assert len(set(parts)) < len(parts), "a part was requested again"
        cached = list((tmp_path / "cache" / "index").iterdir())
        assert [path.suffix for path in cached] == [".directory"]


def test_the_first_bytes_of_a_file_that_come_damaged_are_read_again(tmp_path, client):
    hagrid.world().write_images(tmp_path / "a.zip")
    with serve(tmp_path, kinds=("wrong",)) as server:
        server.first_bad = 1
        file = client.open(server.url("a.zip"))
        assert index.read_index(file).length == file.length


def test_the_first_place_that_can_be_read_is_used_and_all_errors_are_reported(tmp_path, client):
    hagrid.world().write_images(tmp_path / "a.zip")
    places = (str(tmp_path / "missing.zip"), str(tmp_path / "a.zip"))
    assert isinstance(index.open_place(Archive(places), client), LocalFile)
    with serve(tmp_path) as server:
        places = (str(tmp_path / "missing.zip"), server.url("gone.zip"))
        with pytest.raises(UserError, match=r"missing.zip does not exist; .*gone.zip: HTTP 404"):
            index.read_index(index.open_place(Archive(places), client))


def test_a_file_that_is_not_an_archive_is_a_users_error(tmp_path, client):
    (tmp_path / "a.zip").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a.zip is not a readable zip archive: it has no end record"):
        index.read_index(index.open_place(Archive((str(tmp_path / "a.zip"),)), client))
