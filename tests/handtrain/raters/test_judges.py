"""Judges by name: an entry point of a package on the path, and a language model behind a scripted server."""

import base64
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handdata.errors import Unfinished, UserError
from handtrain.raters.judges import JUDGES, judges, make_judge, scores
from handtrain.raters.vlm import VlmJudge, data_url, read_answer, read_judge_prompt
from tests.chat_server import chat_server, says

RED, BLUE = (np.full((40, 30, 3), colour, np.uint8) for colour in ((250, 10, 10), (10, 10, 250)))

PLUGIN = """
class Redness:
    parallel = 2
    def __init__(self, scale="1"):
        self.scale = float(scale)
    def __call__(self, image):
        assert image.dtype.name == "uint8" and image.shape[2] == 3
        return float(image[..., 0].mean()) / 255 * self.scale
class Broken:
    def __call__(self, image):
        return "very red"
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Return a function that installs a package in a folder on the path, as pip lays it out."""

    def install(name: str, points: str, code: str = PLUGIN) -> Path:
        (tmp_path / f"{name}.py").write_text(code)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[hand1000.judges]\n{points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    return install


def test_a_judge_of_an_installed_package_is_found_by_its_entry_point_and_scores_images(package):
    assert set(judges()) == {"vlm"}
    package("redness_judge", "redness = redness_judge:Redness")
    assert set(judges()) == {"vlm", "redness"}
    assert scores(make_judge("redness"), [RED, BLUE, RED]) == pytest.approx([250 / 255, 10 / 255, 250 / 255])
    assert scores(make_judge("redness:scale=2"), iter([BLUE])) == pytest.approx([20 / 255])
    assert scores(lambda image: None, [RED]) == [None]


def test_mistakes_with_judges_are_one_sentence(package):
    points = "redness = other_judge:Redness\nbroken = other_judge:Broken\ngone = other_judge:Missing"
    package("other_judge", points)
    with pytest.raises(UserError, match="unknown judge 'rednes': did you mean 'redness'"):
        make_judge("rednes")
    with pytest.raises(UserError, match="'size'; the settings of redness are: scale"):
        make_judge("redness:size=2")
    with pytest.raises(UserError, match="write the settings once each"):
        make_judge("redness:scale")
    with pytest.raises(UserError, match="the judge 'gone' of the package other_judge cannot be imported"):
        make_judge("gone")
    with pytest.raises(UserError, match="returned 'very red' for image 0: a score is a finite number or None"):
        scores(make_judge("broken"), [RED])
    with pytest.raises(UserError, match="returned 'nan' for image 0"):
        scores(lambda image: float("nan"), [RED])
    with pytest.raises(
        UserError, match="missing a required argument: 'server'; the settings of vlm are: server, model"
    ):
        make_judge("vlm")


def test_a_second_judge_of_a_name_is_refused(package):
    package("vlm_judge", "vlm = vlm_judge:Redness")
    with pytest.raises(UserError, match="the package vlm_judge has a judge 'vlm', as another one does"):
        make_judge("vlm")
    assert set(JUDGES) == {"vlm"}


def image_of(body: dict[str, Any]) -> np.ndarray:
    """Return the image in a request's first user turn."""
    first = next(message for message in body["messages"] if message["role"] == "user")
    (url,) = [part["image_url"]["url"] for part in first["content"] if part["type"] == "image_url"]
    assert url.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def vlm(url: str, **settings: str) -> VlmJudge:
    extra = "".join(f",{key}={value}" for key, value in settings.items())
    return make_judge(f"vlm:server={url},model=seer{extra}")


def test_a_language_model_sees_the_image_and_its_answer_becomes_a_probability():
    def script(body):
        red = image_of(body)[..., 0].mean() > 128
        return says(json.dumps({"wrong": 90 if red else 10, "flaw": "six fingers" if red else ""}))

    with chat_server(script) as server:
        judge = vlm(server.url)
        assert scores(judge, [RED, BLUE, BLUE, RED]) == [0.9, 0.1, 0.1, 0.9]
        judge.close()
    system, question, _ = read_judge_prompt()
    for body in server.requests:
        assert body["model"] == "seer" and body["temperature"] == 0
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert body["messages"][0]["content"] == system
        assert body["messages"][1]["content"][1] == {"type": "text", "text": question}
        assert np.array_equal(image_of(body), RED) or np.array_equal(image_of(body), BLUE)


def test_images_are_judged_in_parallel_and_returned_in_their_order():
    together = threading.Barrier(3, timeout=20)

    def script(body):
        together.wait()
        return says(json.dumps({"wrong": int(image_of(body)[0, 0, 0])}))

    images = [np.full((8, 8, 3), value, np.uint8) for value in (30, 20, 10)]
    with chat_server(script) as server:
        assert scores(vlm(server.url, parallel="3"), images) == [0.3, 0.2, 0.1]
    assert server.most_at_once == 3


def test_an_answer_that_cannot_be_read_is_asked_for_once_more():
    answers = iter(["I think it is fine.", '```json\n{"wrong": 25, "flaw": ""}\n```'])
    with chat_server(lambda body: says(next(answers))) as server:
        assert vlm(server.url)(RED) == 0.25
    retry = server.requests[1]["messages"]
    assert [message["role"] for message in retry] == ["system", "user", "assistant", "user"]
    assert retry[2]["content"] == "I think it is fine."
    assert "it has no JSON object" in retry[3]["content"] and "{problem}" not in retry[3]["content"]
    assert np.array_equal(image_of(server.requests[1]), RED)
    with chat_server(lambda body: says("no idea")) as server:
        assert vlm(server.url)(RED) is None
    assert len(server.requests) == 2


def test_reasoning_before_the_answer_is_left_out():
    with chat_server(lambda body: says('<think>{"wrong": 1}? no</think>\n{"wrong": 80}')) as server:
        assert vlm(server.url)(RED) == 0.8


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"wrong": 0}', 0.0),
        ('Sure: {"flaw": "fused", "wrong": 100.0}.', 1.0),
        ('{"wrong": 101}', '"wrong" is not a number from 0 to 100'),
        ('{"wrong": true}', '"wrong" is not a number from 0 to 100'),
        ('{"wrong": NaN}', '"wrong" is not a number from 0 to 100'),
        ('{"right": 5}', '"wrong" is not a number from 0 to 100'),
        ("{wrong: 5}", "its JSON object cannot be read"),
        ("", "it has no JSON object"),
    ],
)
def test_only_a_number_from_0_to_100_is_an_answer(text, value):
    assert read_answer(text) == value


def test_errors_of_the_server_name_the_settings_of_the_judge(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-1234")
    with chat_server(lambda body: (404, "no such model")) as server, pytest.raises(UserError) as caught:
        vlm(server.url, key_variable="JUDGE_KEY")(RED)
    assert "see `server` of `--judge vlm:...` and `model` of `--judge vlm:...`" in str(caught.value)
    assert "sk-secret" not in str(caught.value) and server.keys == ["Bearer sk-secret-1234"]
    with pytest.raises(UserError, match="is not a URL: give `server` of `--judge vlm"):
        vlm("nowhere")
    with pytest.raises(UserError, match=r"`timeout` of `--judge vlm:\.\.\.` is 'soon': give a number from 1"):
        vlm("http://127.0.0.1:9/v1", timeout="soon")
    judge = vlm("http://127.0.0.1:9/v1")
    judge._model.pause = 0.0
    with pytest.raises(Unfinished, match=r"does not answer .*; run the same command again"):
        judge(RED)


def test_a_large_image_is_sent_small():
    url = data_url(np.zeros((2000, 1000, 3), np.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).size == (384, 768)
