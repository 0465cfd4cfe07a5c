"""Questions to a language model, its answers, and the prompt file from which questions are built."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from handdata.errors import UserError
from handdata.readers import lines_of

Message = tuple[str, str]  # role (system, user or assistant) and content

_SECTIONS = ("system", "example", "ask", "retry")
_PLACEHOLDERS = {"ask": {"caption", "phrase"}, "retry": {"problem", "phrase"}}


@dataclass(frozen=True)
class Ask:
    """One question: a conversation that ends with the user's turn."""

    messages: tuple[Message, ...]
    temperature: float = 0.0  # 0: the likeliest token each time
    seed: int = 0  # random seed where temperature > 0
    grammar: str | None = None  # GBNF that the answer must follow
    image: str | None = None  # data URL of an image in the first user turn; servers alone take one


@dataclass(frozen=True)
class Answer:
    """An answer. `stop`: the model ended, the length ran out, the prompt did not fit, or time ran out."""

    text: str
    stop: Literal["end", "length", "prompt", "timeout"] = "end"
    tokens: int = 0
    reasoned: bool = False  # the model also returned reasoning, which `text` leaves out


class ChatModel(Protocol):
    """A model that answers: `llama.LlamaModel` in this process, `openai_server.ServerModel` over HTTP."""

    name: str  # for counts and the card
    room: int  # greatest number of tokens to give an answer that reasoning has used up

    def answer(self, asks: list[Ask], max_tokens: int) -> list[Answer]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Prompt:
    """The parts of `prompts/rewrite.txt`."""

    system: str
    examples: tuple[Message, ...]  # user and assistant alternate
    ask: str  # with {caption} and {phrase}
    retry: str  # with {problem} and {phrase}

    def messages(self, caption: str, phrase: str) -> tuple[Message, ...]:
        """Return the first question about a caption."""
        question = self.ask.format(caption=plain(caption), phrase=phrase)
        return (("system", self.system), *self.examples, ("user", question))

    def retry_messages(self, caption: str, phrase: str, draft: str, problem: str) -> tuple[Message, ...]:
        """Return the question after a rejected draft, with the draft and its problem."""
        complaint = self.retry.format(problem=plain(problem), phrase=phrase)
        return (*self.messages(caption, phrase), ("assistant", plain(draft)), ("user", complaint))


def read_prompt(text: str, where: str) -> Prompt:
    """Read a prompt file: sections headed `[system]`, `[example]` (any number), `[ask]`, `[retry]`; `#` comments.

    An example is three lines: caption, phrase and answer. Raises `UserError` naming what is missing.
    """
    bodies = read_sections(text, where, _SECTIONS)
    sections = dict(bodies)
    for name, placeholders in _PLACEHOLDERS.items():
        bare = re.sub(r"{\w*}", "", sections[name])
        if set(re.findall(r"{(\w*)}", sections[name])) != placeholders or "{" in bare or "}" in bare:
            wanted = " and ".join(f"{{{name}}}" for name in sorted(placeholders))
            raise UserError(f"{where}: the section [{name}] must hold {wanted} and no other braces")
    examples: list[Message] = []
    for body in (body for name, body in bodies if name == "example"):
        example = body.split("\n")
        if len(example) != 3:
            raise UserError(f"{where}: an [example] is three lines: the caption, the phrase and the answer")
        caption, phrase, answer = example
        examples += [("user", sections["ask"].format(caption=caption, phrase=phrase)), ("assistant", answer)]
    return Prompt(sections["system"], tuple(examples), sections["ask"], sections["retry"])


def read_sections(text: str, where: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return names and bodies of the sections of a prompt file, in its order; lines that begin with # are left out.

    Raises `UserError` if one of `names` is missing or empty.
    """
    lines = (line for line in lines_of(text) if not line.startswith("#"))
    parts = re.split(r"^\[(\w+)\]\s*$", "\n".join(lines), flags=re.MULTILINE)
    bodies = [(name, body.strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)]
    for name in names:
        if not dict(bodies).get(name):
            raise UserError(f"{where} lacks the section [{name}]")
    return bodies


def merged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a conversation whose system text begins the first user turn, for models without a system role."""
    if messages[0][0] != "system" or len(messages) < 2:
        return messages
    (_, system), (role, first), *rest = messages
    return ((role, f"{system}\n\n{first}"), *rest)


def plain(text: str) -> str:
    """Return a text on one line, without special tokens of chat templates."""
    return re.sub(r"<\|(?:(?!\|>).){0,100}\|>|</?s>|\[/?INST\]|<\|", " ", " ".join(text.split())).strip()
