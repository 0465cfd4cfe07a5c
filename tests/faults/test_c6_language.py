"""Long answers, and servers that send them slowly, do not hold a build up."""

import socket
import threading
import time

import pytest

from handdata.errors import Unfinished
from handdata.texts import checks, english
from handdata.texts.answers import LONGEST, clean
from handdata.texts.chat import Answer, Ask, plain
from handdata.texts.openai_format import read
from handdata.texts.openai_server import ServerModel
from handdata.texts.template import splice
from tests.chat_server import chat_server, says

LARGE = 1 << 16
LONG = {
    "dots": "." * LARGE + "x",
    "dots and blanks": ". " * (LARGE // 2) + "x",
    "blanks": "a." + " " * LARGE + "b",
    "abbreviations": "mr. a. 1. " * (LARGE // 10),
    "digits": "1" * LARGE + ". a. b",
    "opening marks": "<think>" * (LARGE // 7),
    "open brackets": "<|" * (LARGE // 2),
    "channels": "<|channel|>" * (LARGE // 11),
    "gestures": "ok sign " * (LARGE // 8),
    "holding": "hold " * (LARGE // 5),
    "one word": "a" * LARGE,
    "asterisks": "*a" * (LARGE // 2),
    "quotes": '"' * LARGE,
    "backticks": "```\n" * (LARGE // 4),
    "lines": "\n" * LARGE,
}


@pytest.mark.parametrize("kind", LONG)
def test_c6_a_long_answer_is_read_in_linear_time(kind):
    start = time.process_time()
    answer = clean(Answer(LONG[kind]))
    checks.failures("a man", "ok", answer.text)
    checks.failures("a man", "ok", LONG[kind])
    splice(LONG[kind], "ok")
    checks.sentence_ends(LONG[kind])
    english.gestures_named(english.tokenise(LONG[kind]))
    plain(LONG[kind])
    assert time.process_time() - start < 5  # linear time is below 1 s


def test_c6_an_answer_that_stays_long_has_no_end():
    answer = clean(Answer("a man " * LARGE))
    assert answer.stop == "length" and len(answer.text) <= LONGEST
    huge = clean(Answer("\ud800" + "a man " * (LARGE * 8)))  # beyond what is cleaned
    assert huge.stop == "length" and len(huge.text) <= LONGEST
    huge.text.encode()
    assert clean(Answer("<think>" + "a man " * LARGE + "</think>a man")).text == "a man"
    assert "too-long" in checks.failures("a man", "ok", "a man " * LONGEST)


def test_c6_a_reply_beyond_the_cap_is_not_read_to_its_end():
    with chat_server(lambda body: says("a man " * (LARGE * 16))) as server:
        (answer,) = ServerModel(server.url, "m", "NO_KEY").answer([Ask((("user", "hi"),))], 5)
    assert (answer.text, answer.stop) == ("", "length")


@pytest.mark.parametrize(
    "text", ['{"choices": ' + "[" * 100_000, "[1]", '{"choices": [1]}', '{"choices": [{"message": 3}]}', "data: {}\n"]
)
def test_c6_a_reply_of_another_kind_is_no_answer(text):
    assert read(text) is None


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"])
def test_c6_a_server_that_drips_is_too_slow(sent):
    """One byte comes within every timeout between bytes, in the headers or in the body."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip(connection):
        try:
            connection.recv(65_536)
            connection.sendall(sent)
            while not ended.wait(0.1):
                connection.sendall(b"a")
        except OSError:
            pass
        finally:
            connection.close()

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    model = ServerModel(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m", "NO_KEY", parallel=8, timeout=0.5)
    start = time.monotonic()
    with pytest.raises(Unfinished, match=r"did not answer .* in time: raise --rewrite\.timeout"):
        model.answer([Ask((("user", "hi"),))] * 8, 5)
    ended.set()
    listener.close()
    assert time.monotonic() - start < 10
