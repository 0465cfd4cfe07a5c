"""Answer questions with an OpenAI-compatible server: llama.cpp's, vLLM, or a hosted one."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from handdata.errors import Unfinished, UserError, first_line
from handdata.readers import read_secret
from handdata.recipe import flag
from handdata.texts.chat import Answer, Ask
from handdata.texts.openai_format import Terms, error_of, is_too_long, names_field, other_terms, read, request
from handdata.web.client import Deadline, open_client, within
from handdata.web.urls import public_url

_TRIES = 5  # of a request that fails with a transient error
_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)
_REFUSED = (400, 415, 422, 500, 501)  # statuses of servers that do not take a field; 500 where they name it
_SLOW_IN_A_ROW = 8  # timeouts without any answer before, after which the server counts as down
_OF_REWRITE = partial(flag, "rewrite")  # options in messages
_LARGEST = 4 << 20  # bytes of a reply; longer ones count as answers without end


@dataclass(frozen=True)
class _Reply:
    status: int  # of HTTP
    text: str | None  # None: larger than _LARGEST


class ServerModel:
    """A model behind `POST <url>/chat/completions`. `parallel` requests are open at once."""

    room = 4096  # tokens for an answer after reasoning

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str,
        parallel: int = 8,
        timeout: float = 60.0,
        option: Callable[[str], str] = _OF_REWRITE,
        kept: str = "finished shards are kept",
    ) -> None:
        """`key_variable` names the environment variable with the key. No file and no message contains the key.

        In messages, `option` gives the user's option for the argument server, model, key_variable or timeout, and
        `kept` what an outage leaves.
        """
        self._option, self._kept = option, kept
        self.name, self.parallel, self._timeout = model, parallel, timeout
        self._url = url.rstrip("/") + "/chat/completions"
        self._shown = (
            public_url(self._url) if "://" in url else public_url(f"http://{self._url}").removeprefix("http://")
        )
        if not key_variable.isidentifier():
            raise UserError(
                f"{option('key_variable')} is the name of an environment variable with the key, not the key itself"
            )
        self._key = read_secret(key_variable)
        self._key_variable = key_variable
        self._client = _client(self._url, self._key, parallel, timeout, self._shown, option("server"))
        self._terms: Terms = {}  # replaced as a whole when the server takes another form of requests
        self._negotiating = threading.Lock()
        self._answered, self._slow = False, 0
        self.pause = 1.0  # seconds before the second try of a request; doubled for each further one

    def answer(self, asks: list[Ask], max_tokens: int) -> list[Answer]:
        """Return the answers to the questions, in their order.

        Raises `UserError` if the server refuses the request in all its forms, `Unfinished` if it is down.
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
        terms = self._terms
        reply = self._send(ask, max_tokens, terms)
        if reply and self._may_take_other_form(reply, ask, max_tokens, terms):
            with self._negotiating:  # by one request, while the others wait for the outcome
                reply = self._negotiated(ask, max_tokens, reply, terms)
        if reply is None:
            return self._too_slow()
        if reply.status != 200:
            if is_too_long(reply.text or ""):
                return Answer("", "prompt")
            raise UserError(self._refusal(reply))
        self._answered = True
        if reply.text is None:
            return Answer("", "length")
        answer = read(reply.text)
        if answer is None:
            beginning = self._redact(reply.text)[:200]
            raise UserError(f"{self._shown} is not an OpenAI-compatible server: it returned {beginning!r}")
        return answer

    def _negotiated(self, ask: Ask, max_tokens: int, refusal: _Reply, terms: Terms) -> _Reply | None:
        """Return the reply to the first form of a request that the server takes, else its first refusal.

        The form is kept for all further requests.
        """
        reply: _Reply | None = refusal
        if terms is not self._terms:  # another request has found a form
            terms = self._terms
            reply = self._send(ask, max_tokens, terms)
        while reply and self._may_take_other_form(reply, ask, max_tokens, terms):
            other = other_terms(request(self.name, ask, max_tokens, terms), reply.text or "", terms)
            if other is None:
                return refusal
            terms = other
            reply = self._send(ask, max_tokens, terms)
        if reply and reply.status == 200:
            self._terms = terms
        return reply

    def _may_take_other_form(self, reply: _Reply, ask: Ask, max_tokens: int, terms: Terms) -> bool:
        text = reply.text or ""
        if reply.status not in _REFUSED or is_too_long(text):
            return False
        return reply.status < 500 or names_field(request(self.name, ask, max_tokens, terms), text)

    def _send(self, ask: Ask, max_tokens: int, terms: Terms) -> _Reply | None:
        """Return the reply to a request, repeated after a transient error; None if it did not come in time."""
        import httpx2

        body = request(self.name, ask, max_tokens, terms)
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1) * (1 + 0.25 * random.random()))
            try:
                reply = self._post(body)
            except (httpx2.ReadTimeout, httpx2.WriteTimeout):
                return None
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                problem = first_line(error)
                continue
            if reply.status not in _TRANSIENT or (reply.status == 500 and names_field(body, reply.text or "")):
                return reply
            problem = self._problem(reply)
        raise Unfinished(f"the server {self._shown} does not answer ({self._redact(problem)}); {self._kept}")

    def _post(self, body: dict[str, Any]) -> _Reply:
        with (
            within(Deadline(self._timeout, self._timeout)),
            self._client.stream("POST", self._url, json=body) as response,
        ):
            data = b""
            for block in response.iter_bytes():
                data += block
                if len(data) > _LARGEST:
                    return _Reply(response.status_code, None)
            text = data.decode("utf-8", errors="replace")
        status = response.status_code
        return _Reply((error_of(text) or 200) if status == 200 else status, text)

    def _too_slow(self) -> Answer:
        self._slow += 1
        if not self._answered and self._slow >= _SLOW_IN_A_ROW:
            remedy = f"raise {self._option('timeout')}"
            raise Unfinished(f"the server {self._shown} did not answer {self._slow} requests in time: {remedy}")
        return Answer("", "timeout")

    def _refusal(self, reply: _Reply) -> str:
        problem, place = self._problem(reply), f"the server {self._shown}"
        if reply.status in (401, 403):
            return f"{place} refuses the key in ${self._key_variable} ({problem}): set it to a valid one"
        if reply.status == 404:
            options = f"see {self._option('server')} and {self._option('model')}"
            return f"{self._shown} lacks the model '{self.name}' or the OpenAI API ({problem}): {options}"
        return f"{place} rejects the request ({problem}): check {self._option('model')}"

    def _problem(self, reply: _Reply) -> str:
        return f"HTTP {reply.status}: {self._redact(reply.text or '')[:200]}"

    def _redact(self, text: str) -> str:
        text = " ".join(text.split())
        return text.replace(self._key, "[key]") if self._key else text


def _client(url: str, key: str, parallel: int, timeout: float, shown: str, option: str) -> Any:
    """Return an HTTP client whose requests end at their deadline. Raises `UserError` for what is not a URL."""
    import httpx2

    try:
        host = httpx2.URL(url).host
        host.encode("idna")  # as the resolver does
    except (httpx2.InvalidURL, ValueError):
        host = ""
    if not url.startswith(("http://", "https://")) or not host:
        raise UserError(f"{shown.removesuffix('/chat/completions')} is not a URL: give {option} one such as"
                        " http://localhost:8000/v1")  # fmt: skip
    client = open_client(timeout, parallel)
    client.timeout = httpx2.Timeout(timeout, connect=10.0, pool=None)
    if key:
        client.headers["Authorization"] = f"Bearer {key}"
    return client
