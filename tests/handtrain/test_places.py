import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handdata.errors import Unfinished, UserError
from handtrain.places import HubName, hub_errors


def _http(kind: type[Exception], status: int) -> Exception:
    import httpx2

    response = httpx2.Response(status, request=httpx2.Request("GET", "http://127.0.0.1/"))
    return kind("the hub's words", response=response)  # type: ignore[call-arg]


def _errors() -> list[Any]:
    import httpx2
    from huggingface_hub import errors

    return [
        (_http(errors.GatedRepoError, 403), UserError, "is gated: accept its terms"),
        (_http(errors.RepositoryNotFoundError, 404), UserError, "is not on the Hub, or private"),
        (_http(errors.RevisionNotFoundError, 404), UserError, "has no revision v2"),
        (_http(errors.HfHubHTTPError, 403), UserError, "the Hub refuses this token"),
        (_http(errors.HfHubHTTPError, 503), Unfinished, "the Hub answered HTTP 503"),
        (errors.LocalTokenNotFoundError("no token"), UserError, "needs a Hub token"),
        (errors.OfflineModeIsEnabled("offline mode"), Unfinished, "cannot be reached"),
        (httpx2.ConnectError("refused"), Unfinished, "cannot be reached"),
        (httpx2.ReadTimeout("slow"), Unfinished, "cannot be reached"),
    ]


@pytest.mark.parametrize(("error", "kind", "sentence"), _errors())
def test_what_the_hub_answers_is_one_sentence(error: Exception, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as caught, hub_errors(HubName("me/model", "v2"), "--base"):
        raise error
    assert str(caught.value).startswith("--base hf:me/model@v2")
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_down_ends_the_command_with_1() -> None:
    code = """
import sys
from handdata import commands
from handtrain import cli
flags = ["--dataset", "tests", "--base", "hf:me/model", "--gesture", "call", "--out", "o", "--dry-run"]
sys.exit(commands.main("handtrain", "", cli.COMMANDS, ["train", *flags]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_ENDPOINT": "http://127.0.0.1:9", "PATH": "/usr/bin", "HOME": "/nonexistent"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "--base hf:me/model: the Hub cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
