"""Places on the Hub: names, commits, snapshots, and errors as sentences."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from handdata.cli import program
from handdata.errors import Unfinished, UserError
from handdata.huggingface import HubName, hub_errors, model_folder
from handtrain import cli


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Answer for the Hub with a function of the request, with an empty cache; waiting is an error."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    def wait(seconds):
        raise AssertionError(f"waited {seconds} s before another request")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_http.time, "sleep", wait)

    def answers(answer):
        huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(answer)))
        return tmp_path

    yield answers
    huggingface_hub.set_client_factory(_http.default_client_factory)


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (401, "GatedRepo", UserError, "is gated: accept its terms"),
        (401, "RepoNotFound", UserError, "is not on the Hub"),
        (404, "RevisionNotFound", UserError, "no revision"),
        (503, None, Unfinished, "the Hub answered HTTP 503"),
        (None, None, Unfinished, "cannot be reached"),
    ],
)
def test_a_refusal_of_the_hub_is_one_sentence(hub, status, code, error, words):
    def answer(request):
        if status is None:
            raise httpx2.ConnectError("no route", request=request)
        return httpx2.Response(status, headers={"X-Error-Code": code} if code else {}, request=request)

    hub(answer)
    with pytest.raises(error, match=words):
        model_folder(f"google/some-model-{status}-{code}", "main")


def test_without_a_network_a_model_in_the_cache_is_used_at_once(hub):
    def answer(request):
        raise httpx2.ConnectError("no route", request=request)

    repository = hub(answer) / "models--some--captioner"
    for path, text in (("refs/main", "c" * 40), (f"snapshots/{'c' * 40}/config.json", "{}")):
        (repository / path).parent.mkdir(parents=True)
        (repository / path).write_text(text)
    folder, commit = model_folder("some/captioner", "main")
    assert commit == "c" * 40
    assert (folder / "config.json").read_text() == "{}"


def test_a_malformed_model_name_is_one_sentence():
    with pytest.raises(UserError, match="--clip a/b/c/d is neither a folder nor a name"):
        model_folder("a/b/c/d", "main", "--clip")


def _http(kind: type[Exception], status: int) -> Exception:
    response = httpx2.Response(status, request=httpx2.Request("GET", "http://127.0.0.1/"))
    return kind("the hub's words", response=response)  # type: ignore[call-arg]


def _errors() -> list[Any]:
    from huggingface_hub import errors

    return [
        (_http(errors.GatedRepoError, 403), UserError, "is gated: accept its terms"),
        (_http(errors.RepositoryNotFoundError, 404), UserError, "is not on the Hub, or private"),
        (_http(errors.RevisionNotFoundError, 404), UserError, "has no revision 'v2'"),
        (_http(errors.HfHubHTTPError, 403), UserError, "the Hub refuses this token"),
        (_http(errors.HfHubHTTPError, 503), Unfinished, "the Hub answered HTTP 503"),
        (errors.LocalTokenNotFoundError("no token"), UserError, "needs a Hub token"),
        (errors.LocalEntryNotFoundError("not there"), Unfinished, "cannot be reached"),
        (httpx2.ConnectError("refused"), Unfinished, "cannot be reached"),
        (httpx2.ReadTimeout("slow"), Unfinished, "cannot be reached"),
    ]


@pytest.mark.parametrize(("error", "kind", "sentence"), _errors())
def test_every_error_of_the_hub_is_one_sentence(error: Exception, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as caught, hub_errors(HubName("me/model", "v2"), "--base"):
        raise error
    assert str(caught.value).startswith("--base hf:me/model@v2")
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_down_ends_the_command_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    flags = ["--model", "hf:me/model", "--out", str(tmp_path / "o"), "--prompt", "a hand"]
    assert program.main("handtrain", "", cli.COMMANDS, ["generate", *flags]) == 1
    errors = capsys.readouterr().err
    assert "--model hf:me/model is not in the cache and the Hub cannot be reached" in errors
    assert "Traceback" not in errors and not (tmp_path / "o").exists()
