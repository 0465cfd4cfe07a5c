"""Family of chat servers: odd answers of models and of servers; every text has to keep the gesture's phrase."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.chat_server import chat_server
from tests.damage.fixture import written
from tests.damage.trial import Trial

Request = dict[str, Any]
Answer = tuple[int, Any]


def _text(request: Request) -> str:
    return str(written(request)[1]["choices"][0]["message"]["content"])


def _with(change: Callable[[str], Any], **more: Any) -> Callable[[Request], Answer]:
    """Return a script whose message has a changed content, or, for a dict, these fields."""

    def script(request: Request) -> Answer:
        content = change(_text(request))
        message = content if isinstance(content, dict) else {"role": "assistant", "content": content}
        return 200, {"choices": [{"message": message, "finish_reason": "stop", **more}]}

    return script


def _always(status: int, body: Any) -> Callable[[Request], Answer]:
    return lambda request: (status, body)


def _refuses(*names: str) -> Callable[[Request], Answer]:
    """Return a server that refuses parameters, or a role, with the usual message."""

    def script(request: Request) -> Answer:
        for name in names:
            if name in request or any(message["role"] == name for message in request["messages"]):
                return 400, {"error": {"message": f"'{name}' is not supported with this model", "param": name}}
        return written(request)

    return script


def _every(number: int, answer: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    requests: list[int] = []

    def script(request: Request) -> Answer:
        requests.append(1)
        return answer(request) if len(requests) % number == 0 else written(request)

    return script


# Usable answers: the texts have to be the model's, or a sentence has to name the reason.
USABLE: dict[str, Callable[[Request], Answer]] = {
    "plain": written,
    "think": _with(lambda text: f"<think>\nI keep the words.\n</think>\n\n{text}"),
    "thinking": _with(lambda text: f"<thinking>hm</thinking>{text}"),
    "think-empty": _with(lambda text: f"<think>\n\n</think>\n\n{text}"),
    "think-closed": _with(lambda text: f"I keep the words.\n</think>\n{text}"),
    "reasoning-content": _with(lambda text: {"role": "assistant", "content": text, "reasoning_content": "hm " * 90}),
    "list": _with(lambda text: [{"type": "text", "text": text}]),
    "list-of-two": _with(lambda text: [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": text}]),
    "quotes": _with(lambda text: f"\u201c{text}\u201d"),
    "bold": _with(lambda text: f"**{text}**"),
    "newlines": _with(lambda text: f"\n\n{text}\n\n"),
    "spaces": _with(lambda text: text.replace(" ", "\u00a0", 1)),
    "no-system": _refuses("system"),
    "no-max-tokens": _refuses("max_tokens"),
    "no-temperature": _refuses("temperature"),
    "no-seed": _refuses("seed"),
    "no-three": _refuses("system", "max_tokens", "temperature"),
    "bom": lambda request: (200, "\ufeff" + json.dumps(written(request)[1])),
    "sometimes-503": _every(3, _always(503, "busy")),
    "sometimes-429": _every(2, _always(429, {"error": "slow down"})),
}
STATUSES = (201, 204, 301, 400, 401, 403, 404, 413, 422, 429, 500, 503)
BODIES = [
    "", "[]", "{}", "null", "1", "<html>", {"choices": []}, {"choices": None}, {"choices": {}}, {"choices": [None]},
    {"choices": [{}]}, {"choices": [{"message": None}]}, {"choices": [{"message": []}]}, {"error": {"message": "x"}},
    "[" * 100_000, {"choices": [{"message": {"content": 5}}]}, {"choices": [{"message": {"content": {"text": "a"}}}]},
    {"choices": [{"message": {"content": [None, 1, "x"]}}]}, {"choices": "x"}, "\ufffd not json", "NaN",
]  # fmt: skip
TEXTS = [
    "", None, " ", "no", "\u2028", "\ud800", "x" * 300_000, "a. " * 100_000, "\0", "<think>never ends",
    "\U0001f44b" * 50, "I cannot help with that.", "1", "\u202e" + "abc", "{phrase}", "making making making",
    "A" * 3000 + " hand gesture",
]  # fmt: skip
OTHER: dict[str, Callable[[Request], Answer]] = {
    **{f"status-{status}": _always(status, "odd") for status in STATUSES},
    **{f"body-{number}": _always(200, body) for number, body in enumerate(BODIES)},
    **{f"text-{number}": _with(lambda _, text=text: text) for number, text in enumerate(TEXTS)},
    "finish-length": _with(lambda text: text[:10], finish_reason="length"),
    "finish-none": _with(lambda text: text, finish_reason=None),
    "finish-filter": _with(lambda text: "", finish_reason="content_filter"),
    "finish-number": _with(lambda text: text, finish_reason=7),
    "long-body": _with(lambda text: text + " word" * 400_000),
}  # fmt: skip


class Chats:
    """The family."""

    def cases(self, fixture: Path) -> list[str]:
        """Return the names of all cases."""
        return [*USABLE, *OTHER]

    def run(self, trial: Trial, name: str) -> None:
        """Rewrite the captions with the odd server, then check what was stored."""
        build = trial.copy("build")
        texts = build / "texts" / "00000.parquet"
        texts.unlink()
        with chat_server((USABLE | OTHER)[name]) as server:
            flags = ["--server", server.url, "--retries", "1", "--timeout", "3"]
            code = trial.run("handdata", "rewrite", build, *flags)
        if code != 0 or not texts.exists():
            return
        rows = pq.read_table(texts).to_pylist()
        written_rows = [row for row in rows if row["text"]]
        for row in written_rows:
            if row["text"].count("hand gesture") != 1 or "\n" in row["text"] or "<think" in row["text"]:
                trial.wrong.append(f"the text is {row['text'][:100]!r}")
        used = any(row["rewrite"] == "llm" for row in written_rows)
        if name in USABLE and not used and "handdata: " not in trial.ended[-1].errors:
            trial.wrong.append(f"no text is the model's, and no sentence names the reason: {len(rows)} rows")


FAMILY = Chats()
