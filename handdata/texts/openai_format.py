"""Requests and replies in OpenAI's format, and the other forms of a request for servers that refuse one.

Servers differ in the fields that they take: newer ones of OpenAI refuse `max_tokens` and a temperature, strict ones
every field that OpenAI's format lacks, models such as Gemma a system turn.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from handdata.texts.chat import Answer, Ask, merged
from handdata.texts.chat_template import VARIABLES

Terms = dict[str, int]  # by topic: the number of the form that a server takes, 0 for the first

_TEMPLATE, _TOKENS, _SYSTEM = "chat_template_kwargs", "max_tokens", "system"
# Topics of a request with their number of forms, in the order in which a refusal without a name tries the next ones.
_TOPICS = {_TEMPLATE: 2, "seed": 2, "grammar": 2, _SYSTEM: 2, _TOKENS: 3, "temperature": 3}
_FIELDS = {_TOKENS: (_TOKENS, "max_completion_tokens"), _TEMPLATE: (_TEMPLATE, *VARIABLES)}  # a topic's names
_ROLES = re.compile(r"\bsystem\b|\broles?\b|\balternat", re.IGNORECASE)
_TOO_LONG = re.compile(r"context[_ ](?:length|window|size)|prompt is too long|too many tokens", re.IGNORECASE)
_CUT = {"length", "max_tokens", "max_output_tokens", "model_length"}  # values of finish_reason, in lower case
_REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking")  # keys of a message
_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def request(model: str, ask: Ask, max_tokens: int, terms: Terms) -> dict[str, Any]:
    """Return the body of a request in the forms that the server takes."""
    messages = merged(ask.messages) if terms.get(_SYSTEM) else ask.messages
    turns: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in messages]
    if ask.image:
        first = next(turn for turn in turns if turn["role"] == "user")
        image = {"type": "image_url", "image_url": {"url": ask.image}}
        first["content"] = [image, {"type": "text", "text": first["content"]}]
    body: dict[str, Any] = {"model": model, "messages": turns}
    if terms.get(_TOKENS, 0) < 2:
        body[_FIELDS[_TOKENS][terms.get(_TOKENS, 0)]] = max_tokens
    if terms.get("temperature", 0) < 2:
        body["temperature"] = 1 if terms.get("temperature") else ask.temperature
    optional = {"seed": ask.seed, "grammar": ask.grammar, _TEMPLATE: VARIABLES}  # the last two: llama.cpp, vLLM, SGLang
    return body | {name: value for name, value in optional.items() if value is not None and not terms.get(name)}


def other_terms(body: dict[str, Any], refusal: str, terms: Terms) -> Terms | None:
    """Return the terms of the next attempt after a refusal, None if no other form of the request is left.

    The field that the refusal names gets its next form, else the system turn, else the first topic that has one.
    """
    left = [topic for topic, forms in _TOPICS.items() if terms.get(topic, 0) < forms - 1 and _sent(topic, body)]
    if not left:
        return None
    places = {topic: place for topic in left if (place := _mentioned(topic, body, refusal)) is not None}
    topic = min(places, key=lambda topic: places[topic]) if places else left[0]
    return {**terms, topic: terms.get(topic, 0) + 1}


def names_field(body: dict[str, Any], refusal: str) -> bool:
    """Return whether an error names a part of the request that has another form."""
    return any(_sent(topic, body) and _mentioned(topic, body, refusal) is not None for topic in _TOPICS)


def is_too_long(refusal: str) -> bool:
    """Return whether a server refuses a request because the prompt does not fit its model's context."""
    return bool(_TOO_LONG.search(refusal))


def error_of(text: str) -> int | None:
    """Return the status of an error that a server sent with HTTP 200, None for any other text."""
    try:
        data = json.loads(text)
        if data.get("choices") or not data["error"]:
            return None
        code = data["error"].get("code") if isinstance(data["error"], dict) else 400
    except _ERRORS:
        return None
    return code if type(code) is int and 400 <= code < 600 else 400


def read(text: str) -> Answer | None:
    """Return the answer in a reply, None if the text is not a reply in OpenAI's format.

    The content may be a text, a list of parts or missing; a stream of events is put together.
    """
    try:
        choices = [json.loads(event)["choices"][0] for event in _events(text)]
        messages = [choice.get("message") or choice.get("delta") or {} for choice in choices]
        contents = ["".join(_texts(message.get("content"))) for message in messages]
        refusals = [str(message.get("refusal") or "") for message in messages]
        reasoned = any(message.get(key) for message in messages for key in _REASONING)
        ends = [str(choice["finish_reason"]).lower() for choice in choices if choice.get("finish_reason")]
    except _ERRORS:
        return None
    if not choices:
        return None
    content = "".join(contents) or "".join(refusals) or "".join(str(choice.get("text") or "") for choice in choices)
    return Answer(content, "length" if ends and ends[-1] in _CUT else "end", reasoned=reasoned)


def _sent(topic: str, body: dict[str, Any]) -> bool:
    if topic == _SYSTEM:
        return bool(body["messages"][0]["role"] == "system" and len(body["messages"]) > 1)
    return any(name in body for name in _FIELDS.get(topic, (topic,))[:2])


def _mentioned(topic: str, body: dict[str, Any], refusal: str) -> int | None:
    """Return where an error first names a topic; one that it names as the parameter at fault counts as the first."""
    if topic == _SYSTEM:
        role = _ROLES.search(refusal)
        return len(refusal) + role.start() if role else None
    names = [name for name in _FIELDS.get(topic, (topic,)) if name in body or topic == _TEMPLATE]
    places = [found.start() for name in names if (found := re.search(rf"(?<!\w){name}(?!\w)", refusal))]
    blamed = any(re.search(rf'"param"\s*:\s*"{name}', refusal) for name in names)
    return -1 if blamed else min(places, default=None)


def _events(text: str) -> Iterator[str]:
    """Yield the JSON objects of a reply: the text itself, or the data of a stream's events with a choice."""
    if not text.lstrip().startswith(("data:", "event:", ":")):
        yield text
        return
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]" and json.loads(data).get("choices"):
            yield data


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content; parts with reasoning are marked, so that cleaning leaves them out."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _texts(part)
    elif isinstance(content, dict):
        if re.search("think|reason", str(content.get("type")), re.IGNORECASE):
            yield "<think></think>"
        else:
            yield from _texts(content.get("text") or content.get("content") or content.get("value"))
