"""Requests: deadlines by arithmetic, keys on redirects, and a server's words in messages. Drips: `tests/faults`."""

import pytest

from handdata.web.client import SLOWEST, Deadline, exchange, open_client, shown, whole_number
from tests.range_server import serve


def test_a_window_with_enough_bytes_begins_another():
    deadline = Deadline(10.0)
    deadline.spend(9.0, arrived=SLOWEST * 10 - 1)
    assert deadline.left() == 1.0
    deadline.spend(0.5, arrived=1)
    assert deadline.left() == 10.0
    deadline.spend(10.5)
    assert deadline.left() < 0


def test_a_total_ends_an_answer_that_is_fast_enough():
    deadline = Deadline(10.0, total=12.0)
    deadline.spend(8.0, arrived=SLOWEST * 10)
    assert deadline.left() == 4.0


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("123", 123), ("", None), (None, None), ("²", None), ("1 ", None)]
)
def test_only_plain_digits_are_a_number(text, number):
    assert whole_number(text) == number


def test_a_servers_words_are_shortened_printable_and_without_secrets():
    assert shown("a\x1b[31m https://u:pw@h/x?k=1 " + "b" * 200, 40) == "a?[31m https://h/x " + "b" * 21 + "..."


def test_a_key_stays_with_its_host(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"data")
    client = open_client(2.0, 1)
    headers = {"Authorization": "Bearer s3cret"}
    with serve(tmp_path) as other, serve(tmp_path) as first:
        first.redirects |= {"far": other.url("x.bin"), "near": "/x.bin"}
        for path in ("far", "near"):
            request = {"method": "GET", "url": first.url(path), "headers": headers}
            with exchange(client, request, Deadline(2.0)) as response:
                assert response.read() == b"data" and len(response.history) == 1
    client.close()
    assert [request.path for request in first.log] == ["far", "near", "x.bin"]
    assert all(request.headers["Authorization"] == "Bearer s3cret" for request in first.log)
    assert all("authorization" not in map(str.lower, request.headers) for request in other.log)


def test_a_proxy_that_is_not_a_url_gets_a_sentence(monkeypatch):
    from handdata.errors import UserError

    monkeypatch.setenv("ALL_PROXY", "nonsense://u:s3cret@[::1")
    with pytest.raises(UserError, match="correct HTTP_PROXY") as raised:
        open_client(1.0, 1)
    assert "s3cret" not in str(raised.value)
