"""Answer questions with any OpenAI-compatible server: llama.cpp's, vLLM, or a company's."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from handdata.errors import Unfinished, UserError
from handdata.texts.chat import Answer, Ask

_TRIES = 5  # of one request whose failure may pass
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
_SLOW_IN_A_ROW = 8  # requests without an answer in time, and none before: the server is taken for dead


class ServerModel:
    """A model behind `POST <url>/chat/completions`. Several requests are under way at once."""

    def __init__(self, url: str, model: str, key_variable: str, parallel: int = 8, timeout: float = 60.0) -> None:
        """`key_variable` names the environment variable with the key; the key itself is kept in no file or message."""
        import httpx2

        if not url.startswith(("http://", "https://")):
            raise UserError(f"--server {url} is not a URL: give one such as http://localhost:8000/v1")
        self.name, self.parallel = model, parallel
        self._url = url.rstrip("/") + "/chat/completions"
        self._key = os.environ.get(key_variable, "")
        self._key_variable = key_variable
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=parallel)
        self._client = httpx2.Client(headers=headers, timeout=httpx2.Timeout(timeout, connect=10.0), limits=limits)
        self._answered, self._slow = False, 0
        self.pause = 1.0  # s before the second try of a request; doubled for each one after

    def answer(self, asks: list[Ask], max_tokens: int) -> list[Answer]:
        """Return the answers to the questions, in their order.

        Raises `UserError` where the server refuses us, `Unfinished` where it is down.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            futures = [pool.submit(self._answer, ask, max_tokens) for ask in asks]
            try:
                return [future.result() for future in futures]
            finally:
                pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        self._client.close()

    def _answer(self, ask: Ask, max_tokens: int) -> Answer:
        import httpx2

        body = self._body(ask, max_tokens)
        trouble = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1) * (1 + 0.25 * random.random()))
            try:
                response = self._client.post(self._url, json=body)
            except httpx2.ReadTimeout:
                return self._too_slow()
            except httpx2.TransportError as error:
                trouble = str(error) or type(error).__name__
                continue
            if response.status_code == 200:
                self._answered = True
                return self._read(response)
            trouble = f"HTTP {response.status_code}: {self._redact(response.text[:200])}"
            if response.status_code not in _PASSING:
                raise UserError(self._refusal(response.status_code, trouble))
        raise Unfinished(f"the server {self._url} does not answer ({self._redact(trouble)}); finished shards are kept")

    def _body(self, ask: Ask, max_tokens: int) -> dict[str, Any]:
        messages = [{"role": role, "content": content} for role, content in ask.messages]
        body: dict[str, Any] = {"model": self.name, "messages": messages, "max_tokens": max_tokens}
        body |= {"temperature": ask.temperature, "seed": ask.seed}
        return body | ({"grammar": ask.grammar} if ask.grammar else {})  # llama.cpp's server knows it

    def _read(self, response: Any) -> Answer:
        try:
            choice = response.json()["choices"][0]
            text = choice["message"].get("content") or choice["message"].get("refusal") or ""
        except (ValueError, LookupError, TypeError, AttributeError):
            beginning = self._redact(response.text[:200])
            raise UserError(f"{self._url} is no OpenAI-compatible server: it answered {beginning!r}") from None
        return Answer(str(text), "length" if choice.get("finish_reason") == "length" else "end")

    def _too_slow(self) -> Answer:
        self._slow += 1
        if not self._answered and self._slow >= _SLOW_IN_A_ROW:
            raise Unfinished(
                f"the server {self._url} has answered none of {self._slow} requests in time: raise --timeout"
            )
        return Answer("", "timeout")

    def _refusal(self, status: int, trouble: str) -> str:
        if status in (401, 403):
            return f"the server {self._url} refuses the key in ${self._key_variable} ({trouble}): set it to a valid one"
        if status == 404:
            return f"{self._url} knows no model '{self.name}' or is no such server ({trouble}): see --server, --model"
        return f"the server {self._url} rejects the request ({trouble})"

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text
