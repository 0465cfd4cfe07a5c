"""Keys and tokens are stripped and checked where they are read, and no message contains them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from handdata.builds.upload import Hub
from handdata.errors import Unfinished, UserError, first_line
from handdata.huggingface import HubName, at_commit
from handdata.recipe import FetchOptions
from handdata.sources.http import Client, address
from handdata.texts.chat import Ask
from handdata.texts.openai_server import ServerModel
from handtrain.publish import _to_hub
from tests.chat_server import chat_server, says
from tests.hub_server import HubServer

SECRETS = [
    "se\ncret",
    "se\r\ncret",
    "secrét",
    "se cret",
    "secret\u2028more",
    "se\tcret",
    "se\x00cret",
    "\udcffsecret",
    "“secret”",
]
ASK = Ask((("user", "hello"),), 0.0, 0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.adopt(monkeypatch, tmp_path / "home", token=None)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def raises_without(secret: str, work: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        work()
    words = str(caught.value)
    assert "cret" not in words and "\n" not in words, words
    return words


HUB_DOORS: dict[str, Callable[[], Any]] = {
    "model": lambda: at_commit(HubName("tester/model"), "model", "--base"),
    "dataset": lambda: at_commit(HubName("tester/hands"), "dataset", "--dataset"),
    "archive": lambda: address("hf://datasets/tester/hands/call.zip"),
    "publish a dataset": lambda: Hub("tester/hands"),
    "publish a model": lambda: _to_hub(Path(), HubName("tester/model"), False, False),
}


@pytest.mark.parametrize("door", HUB_DOORS)
@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "file"])
@pytest.mark.parametrize("secret", ["se\x01cret", "secr\u00e9t", "se cret"])
def test_b2_a_token_that_no_header_can_hold_is_one_sentence_at_every_door(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str, variable: str, secret: str
) -> None:
    if variable == "file":
        (tmp_path / "home").mkdir()
        (tmp_path / "home/token").write_text(secret, encoding="utf-8")
    else:
        monkeypatch.setenv(variable, secret)
    words = raises_without(secret, HUB_DOORS[door])
    assert ("token" if variable == "file" else variable) in words and not hub.log


def test_b2_a_token_file_of_other_bytes_is_one_sentence(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_bytes(b"\xff\xfesecret")
    raises_without("secret", HUB_DOORS["model"])


def test_b2_white_space_around_a_token_does_not_matter(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", " hf_tester\r\n")
    assert address("hf://datasets/tester/hands/a.zip")[1] == {"Authorization": "Bearer hf_tester"}
    Hub("tester/hands")


@pytest.mark.parametrize("secret", SECRETS)
def test_b2_a_key_of_a_language_model_is_checked_before_a_request(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setattr("os.environ", {"MY_KEY": secret})
    words = raises_without(secret, lambda: ServerModel("http://127.0.0.1:9/v1", "any", "MY_KEY"))
    assert "$MY_KEY" in words


def test_b2_white_space_around_a_key_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "\n sk-secret \n")
    seen: list[str] = []

    with chat_server(lambda request: says("yes")) as server:
        model = ServerModel(server.url, "any", "MY_KEY")
        seen.append(model._client.headers["Authorization"])
        assert model.answer([ASK], 8)[0].text == "yes"
    assert seen == ["Bearer sk-secret"]


def test_b2_a_key_in_place_of_its_variable_is_not_repeated() -> None:
    words = raises_without("secret", lambda: ServerModel("http://127.0.0.1:9/v1", "any", "sk-secret-1234"))
    assert "--key-variable" in words


def test_b2_a_server_that_repeats_the_key_cannot_publish_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-" + "0123456789" * 6
    monkeypatch.setenv("MY_KEY", key)
    model = ServerModel("http://127.0.0.1:9/v1", "any", "MY_KEY")

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(400, text="x" * 170 + key, request=request)

    model._client = httpx2.Client(transport=httpx2.MockTransport(answer))
    with pytest.raises(UserError) as caught:
        model.answer([ASK], 8)
    assert key[:8] not in str(caught.value)


@pytest.mark.parametrize("kind", [httpx2.LocalProtocolError, httpx2.RemoteProtocolError, ValueError])
def test_b2_an_error_about_a_header_is_its_class(kind: type[Exception]) -> None:
    assert first_line(kind("Illegal header value b'Bearer sk-secret'")) == kind.__name__
    assert first_line(kind("no route to host\nBearer sk-secret")) == "no route to host"


ADDRESSES = [
    "http://user:secret@127.0.0.1:9/v1",
    "http://user:s/ecret@127.0.0.1:9/v1",
    "http://127.0.0.1:9/v1?api-key=secret",
    "http://user:secret@[::1/v1",
    "user:secret@127.0.0.1:9/v1",
    "ftp://user:secret@127.0.0.1/v1",
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_b2_the_password_of_a_servers_address_is_not_repeated(url: str) -> None:
    with pytest.raises((UserError, Unfinished)) as caught:
        model = ServerModel(url, "any", "NO_KEY", timeout=1.0)
        model.pause = 0.0
        model.answer([ASK], 8)
    words = str(caught.value)
    assert "ecret" not in words and "user:" not in words and "\n" not in words, words


PROXIES = ["http://user:secret@[::1", "nonsense://user:secret@proxy:1", "http://user:secret@proxy:port"]
PROXY_DOORS: dict[str, Callable[[], Any]] = {
    "model": HUB_DOORS["model"],
    "dataset": HUB_DOORS["dataset"],
    "archive": lambda: Client(FetchOptions()).open("https://example.invalid/a.zip"),
    "chat server": lambda: ServerModel("https://example.invalid/v1", "any", "NO_KEY"),
}


@pytest.mark.parametrize("door", PROXY_DOORS)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", PROXIES)
def test_b2_a_proxy_that_cannot_be_used_is_one_sentence(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, door: str, variable: str, proxy: str
) -> None:
    from huggingface_hub import close_session

    monkeypatch.setenv(variable, proxy)
    close_session()
    words = raises_without("secret", PROXY_DOORS[door])
    assert "HTTPS_PROXY" in words
