"""One archive in several places: order, places that fail, and the end when none is left."""

import random

import pytest

from handdata.errors import Unfinished
from handdata.recipe import FetchOptions
from handdata.rows.manifest import SourceFacts
from handdata.sources.archive import BadMember
from handdata.sources.http import Client
from handdata.sources.mirrors import Mirrors
from tests.range_server import serve

DATA = random.Random(0).randbytes(1000)


@pytest.fixture
def client():
    client = Client(FetchOptions(attempts=2, backoff=0.01, timeout=1))
    yield client
    client.close()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(DATA)
    (tmp_path / "b.zip").write_bytes(DATA[::-1])
    return tmp_path


def mirrors(client: Client, *places: str) -> Mirrors:
    return Mirrors(SourceFacts(places, len(DATA), {}), client)


def test_places_are_read_in_order_and_in_reverse_after_wrong_bytes(folder, client):
    both = mirrors(client, str(folder / "a.zip"), str(folder / "b.zip"))
    assert both.read(10, 20) == DATA[10:30]
    assert both.read(10, 20, other=True) == DATA[::-1][10:30]
    assert both.read(990, 20) == DATA[990:], "up to the end of the archive"


def test_a_place_that_refuses_is_left_out_from_then_on(folder, client):
    with serve(folder) as server:
        both = mirrors(client, server.url("missing.zip"), str(folder / "a.zip"))
        assert [both.read(0, 10), both.read(5, 10)] == [DATA[:10], DATA[5:15]]
        assert len(server.log) == 1


def test_a_place_that_never_answered_is_left_out_after_one_exhausted_read(folder, client):
    with serve(folder, faults=1.0, kinds=("503",)) as server:
        both = mirrors(client, server.url("a.zip"), str(folder / "a.zip"))
        assert [both.read(0, 10), both.read(5, 10)] == [DATA[:10], DATA[5:15]]
        assert len(server.log) == client.options.attempts


def test_without_a_place_that_can_be_read_the_reasons_are_reported(folder, client):
    (folder / "short.zip").write_bytes(DATA[:-1])
    neither = mirrors(client, str(folder / "missing.zip"), str(folder / "short.zip"))
    with pytest.raises(Unfinished, match=r"missing.zip: the file does not exist; .*it has 999 bytes"):
        neither.read(0, 10)


def test_a_member_outside_the_archive_has_the_reason_wrong_header(folder, client):
    with pytest.raises(BadMember) as raised:
        mirrors(client, str(folder / "a.zip")).read(len(DATA), 1)
    assert raised.value.reason == "wrong-header"


def test_a_missing_file_of_a_folder_has_the_reason_image_missing(folder, client):
    assert mirrors(client, str(folder / "elsewhere"), str(folder)).read_file("a.zip") == DATA
    with pytest.raises(BadMember, match=r"c.jpg is missing from") as raised:
        mirrors(client, str(folder)).read_file("c.jpg")
    assert raised.value.reason == "image-missing"
