"""A language model that sees images as a judge of hands, over an OpenAI-compatible server."""

import base64
import io
import json
import math
import re
from typing import Any

import numpy as np
from PIL import Image

from handdata.errors import UserError
from handdata.shipped import resource
from handdata.texts.answers import Conversation
from handdata.texts.chat import Ask, Message, plain, read_sections
from handdata.texts.openai_server import ServerModel

LONGEST = 768  # pixels of an image that is sent
MOST_TOKENS = 200  # of an answer; more if the model reasons first
RETRIES = 1  # questions after an answer that cannot be read

_PROMPT = "prompts/judge.txt"


class VlmJudge:
    """A judge that sends each image to a server and reads the probability of wrong anatomy from the answer."""

    def __init__(
        self, server: str, model: str, key_variable: str = "OPENAI_API_KEY", parallel: str = "8", timeout: str = "120"
    ) -> None:
        """Open a client of `server`/chat/completions; `key_variable` names the environment variable with the key.

        Raises `UserError` for an address that is not a URL and for numbers that are not.
        """
        self.parallel = int(_number("parallel", parallel, 1, 255))
        seconds = _number("timeout", timeout, 1, 86_400)
        self._model = ServerModel(
            server, model, key_variable, self.parallel, seconds, _option, "run the same command again"
        )
        self._system, self._ask, self._retry = read_judge_prompt()

    def __call__(self, image: np.ndarray) -> float | None:
        """Return the probability that the hand in an image (height, width, 3) of uint8 is wrong; None without one.

        Raises `UserError` if the server refuses the request, `Unfinished` if it is down.
        """
        messages: tuple[Message, ...] = (("system", self._system), ("user", self._ask))
        shown = data_url(image)
        for _ in range(1 + RETRIES):
            (answer,) = Conversation(self._model, MOST_TOKENS).answers([Ask(messages, image=shown)])
            value = read_answer(answer.text)
            if isinstance(value, float):
                return value
            complaint = self._retry.replace("{problem}", value)
            messages = (*messages, ("assistant", plain(answer.text)), ("user", complaint))
        return None

    def close(self) -> None:
        self._model.close()


def read_judge_prompt() -> tuple[str, str, str]:
    """Return the system text, the question and the complaint of `prompts/judge.txt`."""
    sections = dict(read_sections(resource(_PROMPT).read_text(encoding="utf-8"), _PROMPT, ("system", "ask", "retry")))
    return sections["system"], sections["ask"], sections["retry"]


def read_answer(text: str) -> float | str:
    """Return the probability in an answer, or why it has none."""
    found = re.search(r"\{[^{}]*\}", text)
    if not found:
        return "it has no JSON object"
    try:
        value: Any = json.loads(found[0]).get("wrong")
    except ValueError:
        return "its JSON object cannot be read"
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 100:
        return '"wrong" is not a number from 0 to 100'
    return float(value) / 100


def data_url(image: np.ndarray) -> str:
    """Return an image (height, width, 3) of uint8 as the data URL of a PNG of at most 768 px."""
    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _option(name: str) -> str:
    return f"`{name}` of `--judge vlm:...`"


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise UserError(f"{_option(name)} is {text[:40]!r}: give a number from {least:,} to {most:,}")
    return number
