"""Where a model of transformers lies: its folder, or what the Hub says of it."""

import httpx2
import pytest

from handdata.errors import Unfinished, UserError
from handdata.pretrained import resolve


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Answer for the Hub with a function of the request, with an empty cache; waiting is an error."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    def wait(seconds):
        raise AssertionError(f"waited {seconds} s to ask the Hub again")

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
        (401, "GatedRepo", UserError, "is gated: accept its licence"),
        (401, "RepoNotFound", UserError, "knows no model"),
        (404, "RevisionNotFound", UserError, "no revision"),
        (503, None, Unfinished, "does not answer"),
        (None, None, Unfinished, "does not answer"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, status, code, error, words):
    def answer(request):
        if status is None:
            raise httpx2.ConnectError("no route", request=request)
        return httpx2.Response(status, headers={"X-Error-Code": code} if code else {}, request=request)

    hub(answer)
    with pytest.raises(error, match=words):
        resolve(f"google/some-model-{status}-{code}", "main")


def test_without_a_network_a_model_in_the_cache_is_taken_at_once(hub):
    def answer(request):
        raise httpx2.ConnectError("no route", request=request)

    repository = hub(answer) / "models--some--captioner"
    for path, text in (("refs/main", "c" * 40), (f"snapshots/{'c' * 40}/config.json", "{}")):
        (repository / path).parent.mkdir(parents=True)
        (repository / path).write_text(text)
    folder, commit = resolve("some/captioner", "main")
    assert commit == "c" * 40
    assert (folder / "config.json").read_text() == "{}"


def test_a_name_that_can_be_no_model_is_one_sentence():
    with pytest.raises(UserError, match="--clip a/b/c/d is neither a folder nor a name"):
        resolve("a/b/c/d", "main", "--clip")
