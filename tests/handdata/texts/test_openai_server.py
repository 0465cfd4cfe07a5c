"""Requests to an OpenAI-compatible server: order, retries, keys, refusals and time-outs."""

import threading
import time

import pytest

from handdata.errors import Unfinished, UserError
from handdata.texts.chat import Ask
from handdata.texts.openai_server import ServerModel
from tests.chat_server import chat_server, says

ASK = Ask((("system", "be brief"), ("user", "hello")))


def model(url, **options):
    server_model = ServerModel(url, "llama-3", "TEST_KEY", **options)
    server_model.pause = 0.01
    return server_model


def test_several_requests_are_open_at_once_and_answers_keep_their_order():
    together = threading.Barrier(4, timeout=10)

    def script(body):
        together.wait()
        return says(body["messages"][-1]["content"])

    with chat_server(script) as server:
        asks = [Ask((("user", str(n)),), 0.7, seed=n) for n in range(8)]
        answers = model(server.url, parallel=4).answer(asks, 50)
    assert [answer.text for answer in answers] == [str(n) for n in range(8)]
    assert server.most_at_once == 4
    body = next(body for body in server.requests if body["seed"] == 3)
    assert body == {
        "model": "llama-3",
        "messages": [{"role": "user", "content": "3"}],
        "max_tokens": 50,
        "temperature": 0.7,
        "seed": 3,
        "chat_template_kwargs": {"date_string": "26 Jul 2024", "enable_thinking": False, "thinking": False},
    }


def test_an_answer_cut_short_differs_from_a_finished_one():
    with chat_server(lambda body: says("and so on and", "length")) as server:
        assert model(server.url).answer([ASK], 5)[0].stop == "length"


def test_a_refusal_and_an_empty_answer_are_answers():
    refusal = (200, {"choices": [{"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}]})
    with chat_server(lambda body: refusal) as server:
        assert model(server.url).answer([ASK], 5)[0].text == "I cannot."
    with chat_server(lambda body: says("")) as server:
        assert model(server.url).answer([ASK], 5)[0].text == ""


def test_a_transient_error_is_tried_again():
    statuses = iter([500, 429, 503])

    def script(body):
        status = next(statuses, 200)
        return (status, "busy") if status != 200 else says("done")

    with chat_server(script) as server:
        assert model(server.url).answer([ASK], 5)[0].text == "done"
    assert len(server.requests) == 4


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret-1")
    with chat_server(lambda body: (401, "bad key sk-secret-1")) as server:
        with pytest.raises(UserError) as error:
            model(server.url).answer([ASK], 5)
        assert server.keys == ["Bearer sk-secret-1"]
    assert "TEST_KEY" in str(error.value) and "sk-secret-1" not in str(error.value)


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with chat_server(lambda body: says("hello")) as server:
        model(server.url).answer([ASK], 5)
    assert server.keys == [None]


def test_a_server_that_is_down_is_one_sentence():
    with chat_server(lambda body: says("hello")) as server:
        url = server.url
    with pytest.raises(Unfinished, match="does not answer"):
        model(url).answer([ASK], 5)


@pytest.mark.parametrize(
    ("url", "answer", "words"),
    [
        (None, (404, "no such model"), "llama-3"),
        (None, (400, "bad request"), "rejects"),
        (None, (200, "<html>hello</html>"), "not an OpenAI-compatible server"),
        (None, (200, {"choices": []}), "not an OpenAI-compatible server"),
        ("localhost:80", None, "not a URL"),
    ],
)
def test_a_wrong_server_is_one_sentence(url, answer, words):
    with chat_server(lambda body: answer) as server, pytest.raises(UserError, match=words):
        model(url or server.url).answer([ASK], 5)


def test_a_slow_answer_is_a_timeout_and_a_server_that_never_answers_is_given_up():
    slow = iter([True, False])

    def script(body):
        if next(slow, False):
            time.sleep(1.5)
        return says("late")

    with chat_server(script) as server:
        answers = model(server.url, timeout=0.4, parallel=1).answer([ASK, ASK], 5)
    assert [answer.stop for answer in answers] == ["timeout", "end"]

    def never(body):
        time.sleep(1.0)
        return says("late")

    with chat_server(never) as server, pytest.raises(Unfinished, match="did not answer 8 requests in time"):
        model(server.url, timeout=0.2, parallel=4).answer([ASK] * 12, 5)


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-\u00fc", "sk one"])
def test_a_key_that_no_header_can_hold_is_refused_without_its_text(key, monkeypatch):
    monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(UserError, match=r"the key in \$TEST_KEY") as error:
        model("http://127.0.0.1:9/v1")
    assert "sk-" not in str(error.value) and "sk one" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://",
        "http://a b:x/v1",
        "ftp://host/v1",
        f"http://{'a' * 300}.example",
        "http://a..b",
        "http://user:pw@[::/v1",
    ],
)
def test_what_is_not_a_url_is_one_sentence(url):
    with pytest.raises(UserError, match="not a URL") as error:
        model(url)
    assert "pw" not in str(error.value)


def test_a_password_in_the_url_is_not_printed():
    with chat_server(lambda body: (401, "no")) as server, pytest.raises(UserError) as error:
        model(server.url.replace("http://", "http://me:pw@")).answer([ASK], 5)
    assert "pw" not in str(error.value)
