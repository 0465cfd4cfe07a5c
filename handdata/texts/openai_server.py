"""Answer questions with an OpenAI-compatible server: llama.cpp's, vLLM, or a hosted one."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from handdata.errors import Unfinished, UserError
from handdata.texts.chat import Answer, Ask

_TRIES = 5  # of a request that fails with a transient error
_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)
_SLOW_IN_A_ROW = 8  # timeouts without any answer before, after which the server counts as down


class ServerModel:
    """A model behind `POST <url>/chat/completions`. `parallel` requests are open at once."""

    def __init__(self, url: str, model: str, key_variable: str, parallel: int = 8, timeout: float = 60.0) -> None:
        """`key_variable` names the environment variable with the key. No file and no message contains the key."""
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
        self.pause = 1.0  # seconds before the second try of a request; doubled for each further one

    def answer(self, asks: list[Ask], max_tokens: int) -> list[Answer]:
        """Return the answers to the questions, in their order.

        Raises `UserError` if the server refuses the request, `Unfinished` if it is down.
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
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1) * (1 + 0.25 * random.random()))
            try:
                response = self._client.post(self._url, json=body)
            except httpx2.ReadTimeout:
                return self._too_slow()
            except httpx2.TransportError as error:
                problem = str(error) or type(error).__name__
                continue
            if response.status_code == 200:
                self._answered = True
                return self._read(response)
            problem = f"HTTP {response.status_code}: {self._redact(response.text[:200])}"
            if response.status_code not in _TRANSIENT:
                raise UserError(self._refusal(response.status_code, problem))
        raise Unfinished(f"the server {self._url} does not answer ({self._redact(problem)}); finished shards are kept")

    def _body(self, ask: Ask, max_tokens: int) -> dict[str, Any]:
        messages = [{"role": role, "content": content} for role, content in ask.messages]
        body: dict[str, Any] = {"model": self.name, "messages": messages, "max_tokens": max_tokens}
        body |= {"temperature": ask.temperature, "seed": ask.seed}
        return body | ({"grammar": ask.grammar} if ask.grammar else {})  # an extension of llama.cpp's server

    def _read(self, response: Any) -> Answer:
        try:
            choice = response.json()["choices"][0]
            text = choice["message"].get("content") or choice["message"].get("refusal") or ""
        except (ValueError, LookupError, TypeError, AttributeError):
            beginning = self._redact(response.text[:200])
            raise UserError(f"{self._url} is not an OpenAI-compatible server: it returned {beginning!r}") from None
        return Answer(str(text), "length" if choice.get("finish_reason") == "length" else "end")

    def _too_slow(self) -> Answer:
        self._slow += 1
        if not self._answered and self._slow >= _SLOW_IN_A_ROW:
            raise Unfinished(f"the server {self._url} did not answer {self._slow} requests in time: raise --timeout")
        return Answer("", "timeout")

    def _refusal(self, status: int, problem: str) -> str:
        if status in (401, 403):
            return f"the server {self._url} refuses the key in ${self._key_variable} ({problem}): set it to a valid one"
        if status == 404:
            return f"{self._url} lacks the model '{self.name}' or the OpenAI API ({problem}): see --server, --model"
        return f"the server {self._url} rejects the request ({problem})"

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text
