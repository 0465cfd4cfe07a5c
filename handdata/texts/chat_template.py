"""Conversations as prompts, by the chat template of a GGUF file or of the user.

Templates print today's date, begin reasoning or refuse a system turn. Here the date is fixed, reasoning is switched
off, and the system text joins the first question where a template has no place for it.
"""

import re
from datetime import datetime
from typing import Any

from handdata.errors import UserError
from handdata.recipe import flag
from handdata.texts.answers import closing_mark
from handdata.texts.chat import Message, merged

DATE = datetime(2024, 7, 26)  # the date that Llama 3.1's template prints if it gets none
# Names of variables: enable_thinking in Qwen, GLM, SmolLM and others; thinking in DeepSeek, Granite and Kimi
VARIABLES: dict[str, Any] = {"date_string": f"{DATE:%d %b %Y}", "enable_thinking": False, "thinking": False}

_PROBE: tuple[Message, ...] = (
    ("system", "probe one"), ("user", "probe two"), ("assistant", "probe three"), ("user", "probe four"),
)  # fmt: skip
_FORMS = ((False, False), (True, False), (False, True), (True, True))  # system text merged, contents as lists of parts


class ChatTemplate:
    """A chat template: a function from messages to the prompt."""

    def __init__(self, source: str, where: str, bos: str, eos: str) -> None:
        """Compile a template; `where` is its place for messages.

        Raises `UserError` if it is not Jinja, raises an error for a plain conversation, or leaves parts of it out.
        """
        import jinja2
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        # exceptions of code that comes from a foreign file
        self._errors = (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
                        RecursionError)  # fmt: skip
        self._where, self._source = where, source
        make: Any = Jinja2ChatFormatter
        try:
            self._formatter = make(template=source, eos_token=eos, bos_token=bos)
        except self._errors as error:
            raise self._refused(error) from None
        self._formatter.strftime_now = DATE.strftime  # in place of today's date
        self._form = self._fitting_form()

    def __call__(self, messages: tuple[Message, ...]) -> str:
        """Return a conversation as text that ends where the answer begins, after an empty reasoning if it needs one."""
        try:
            prompt = self._rendered(messages, *self._form)
        except self._errors as error:
            raise self._refused(error) from None
        if "<|channel|>" in self._source and prompt.endswith("<|start|>assistant"):  # gpt-oss
            return f"{prompt}<|channel|>final<|message|>"
        ending = closing_mark(prompt)
        return f"{prompt.rstrip()}\n\n{ending}\n\n" if ending else prompt

    def _fitting_form(self) -> tuple[bool, bool]:
        """Return the first form of a conversation that the template prints as a whole."""
        problem: Exception = ValueError("it leaves out parts of the conversation")
        for form in _FORMS:
            try:
                prompt = self._rendered(_PROBE, *form)
            except self._errors as error:
                problem = error
                continue
            if all(text in prompt for _, text in _PROBE):
                return form
        raise self._refused(problem)

    def _rendered(self, messages: tuple[Message, ...], merge: bool, parts: bool) -> str:
        turns = [
            {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
            for role, text in (merged(messages) if merge else messages)
        ]
        prompt: str = self._formatter(messages=turns, **VARIABLES).prompt
        return prompt

    def _refused(self, error: Exception) -> UserError:
        reason = re.sub(r"\s+", " ", str(error))[:200] or type(error).__name__
        remedy = f"give another one with {flag('rewrite', 'template')}"
        return UserError(f"the chat template of {self._where} cannot be used ({reason}): {remedy}")
