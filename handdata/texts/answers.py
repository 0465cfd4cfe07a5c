"""Clean the answers of language models: reasoning, markup and special tokens are removed.

Models differ in how they mark reasoning: `<think>`, `[THINK]`, `<|START_THINKING|>`, gpt-oss's channels, a closing tag
alone. Every pattern takes time linear in the length of the answer.
"""

import re
from dataclasses import replace

from handdata.texts.chat import Answer, Ask, ChatModel

LONGEST = 4_096  # characters of a caption or text; 77 CLIP tokens are about 400
_UNREAD = 1 << 20  # characters of an answer with its reasoning; a longer one is cut before it is cleaned
_MANY = 8  # answers, of which nearly all ended for want of tokens, that are requested again with more of them
_NEARLY_ALL = 0.9

_NAME = (
    r"(?:[\w-]{1,20}[:_])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|analysis|scratchpad|rationale"
    r"|monologue|cot)(?:[_-](?:process|content|trace|tokens?))?"
)
_ENDS_REASONING = re.compile(
    rf"(?:<\|?/|\[/|◁/|<\|?(?:end|stop)_(?:of_)?){_NAME}\s?(?:\|?>|\]|▷)"
    r"|<\|channel\|>\s{0,9}final\b[^<]{0,60}<\|message\|>|<channel\|>"  # gpt-oss; Gemma
    r"|<\|inner_suffix\|>|<unused95>"  # Apertus; MedGemma
    r"|assistantfinal(?=\S)"  # gpt-oss where the server removed the special tokens
    r"|\bhere(?:'s| is) my response:",  # Granite 3.2
    re.IGNORECASE,
)
_BEGINS_REASONING = re.compile(
    rf"(?:<\|?|\[|◁)(?:(?:begin|start)_(?:of_)?)?{_NAME}(?:\s[^<>\[\]]{{0,80}})?(?:\|?>|\]|▷)"
    r"|<\|channel\|?>\s{0,9}(?!final\b)\w{1,20}[^<]{0,60}(?:<\|message\|>)?"
    r"|<\|inner_prefix\|>|<unused94>"
    r"|\A\s{0,9}(?:analysis|commentary)(?-i:(?=[A-Z\"']))"
    r"|\bhere(?:'s| is) my thought process:",
    re.IGNORECASE,
)
_MARK = re.compile(f"(?P<ends>{_ENDS_REASONING.pattern})|{_BEGINS_REASONING.pattern}", re.IGNORECASE)

_ANSWER = r"(?:(?:final|new)_)?(?:answer|response|solution|output|caption|result|box)"
_BEGINS_ANSWER = re.compile(rf"(?:<\|?|\[)(?:(?:begin|start)_(?:of_)?)?{_ANSWER}(?:\|?>|\])", re.IGNORECASE)
_ENDS_ANSWER = re.compile(rf"(?:<\|?/|\[/|<\|?(?:end|stop)_(?:of_)?){_ANSWER}(?:\|?>|\])", re.IGNORECASE)

_TURN_END = re.compile(
    r"<\|(?:eot_id|eom_id|end_of_text|end_of_turn|im_end|end|return|call|endoftext|eos|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<(?:end_of_turn|eos|turn\|)>|<｜end▁of▁sentence｜>|<\|END_RESPONSE\|>"
)
_TURN_BEGIN = re.compile(
    r"\s*(?:<\|start_header_id\|>assistant<\|end_header_id\|>|<\|(?:im_start|start)\|>assistant|<\|assistant\|>"
    r"|<\|START_RESPONSE\|>|<start_of_turn>model|<｜Assistant｜>)"
)
_QUOTES = ('""', "“”", "''", "‘’", "«»", "„“", "「」")
_BLANKS = dict.fromkeys((160, 5760, *range(8192, 8203), 8239, 8287, 12288), " ")
_INVISIBLE = dict.fromkeys((0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF))


class Conversation:
    """A model's cleaned answers to the questions of a shard, with more tokens for those that reasoning used up."""

    def __init__(self, model: ChatModel, max_tokens: int) -> None:
        self._model, self._max_tokens = model, max_tokens
        self._room = model.room  # greatest number of tokens of a second request; 0 after one that was of no use

    def answers(self, asks: list[Ask]) -> list[Answer]:
        """Return the cleaned answers to the questions, in their order."""
        answers = list(map(clean, self._model.answer(asks, self._max_tokens)))
        short = [place for place, answer in enumerate(answers) if answer.reasoned and answer.stop == "length"]
        cut = [place for place, answer in enumerate(answers) if answer.stop == "length"]
        if len(cut) >= _MANY and len(cut) >= _NEARLY_ALL * len(answers):
            short = cut  # a model that reasons without any mark
        if not short or self._room <= self._max_tokens:
            return answers
        longer = list(map(clean, self._model.answer([asks[place] for place in short], self._room)))
        if any(answer.text and answer.stop == "end" for answer in longer):
            self._max_tokens = self._room
        else:
            self._room = 0
        for place, answer in zip(short, longer, strict=True):
            answers[place] = answer
        return answers


def clean(answer: Answer) -> Answer:
    """Return an answer whose text is without reasoning, markup, special tokens and quotation marks around it.

    `reasoned` is set if there was reasoning. An answer that is still longer than LONGEST counts as one without end.
    """
    if len(answer.text) > _UNREAD:
        return replace(answer, text=answer.text[:LONGEST].encode("utf-8", "replace").decode(), stop="length")
    text = answer.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text, reasoned = without_reasoning(text)
    text = _unwrapped(text)
    if len(text) > LONGEST:
        return replace(answer, text=text[:LONGEST], stop="length", reasoned=reasoned or answer.reasoned)
    return replace(answer, text=tidy(text), reasoned=reasoned or answer.reasoned)


def without_reasoning(text: str) -> tuple[str, bool]:
    """Return a text without the reasoning in it, and whether there was any.

    A mark that ends reasoning without one that begins it drops all text before it, one that only begins it all after.
    """
    kept, start, inside, found = list[str](), 0, False, False
    for mark in _MARK.finditer(text):
        found = True
        if mark["ends"]:
            if not inside:
                kept.clear()
            start, inside = mark.end(), False
        elif not inside:
            kept.append(text[start : mark.start()])
            inside = True
    if not inside:
        kept.append(text[start:])
    return "".join(kept), found


def closing_mark(prompt: str) -> str:
    """Return the mark that ends the reasoning which a prompt begins in its last line, empty if it begins none."""
    last = prompt.rstrip()[-100:]
    begins = [mark for mark in _BEGINS_REASONING.finditer(last) if mark.end() == len(last)]
    if not begins or _ENDS_REASONING.fullmatch(begins[-1][0]):
        return ""
    mark = begins[-1][0]
    ending = re.sub("START|BEGIN", "END", re.sub("start|begin", "end", mark))
    return ending if ending != mark else re.sub(r"\A(<\||<|\[|◁)", r"\1/", mark)


def tidy(text: str) -> str:
    """Return a text on the outside and inside as plain words: no quotation marks around it, emphasis or odd blanks."""
    text = text.translate(_BLANKS | _INVISIBLE).strip()
    for _ in range(4):  # such as bold text within quotation marks within a code block
        before, text = text, _without_quotes(_without_emphasis(text)).strip()
        if text == before:
            break
    return text


def _unwrapped(text: str) -> str:
    """Return the part of a text between marks of an answer, up to the end of the turn."""
    begin = _BEGINS_ANSWER.search(text)
    text = text[begin.end() :] if begin else text
    end = _ENDS_ANSWER.search(text)
    text = text[: end.start()] if end and text[: end.start()].strip() else text
    turns = (turn for turn in _TURN_END.split(text) if turn.strip())
    text = next(turns, "")
    begin = _TURN_BEGIN.match(text)
    return text[begin.end() :] if begin else text


def _without_emphasis(text: str) -> str:
    fence = re.fullmatch(r"```\w{0,20}\n(.*)\n```", text, re.DOTALL)
    text = fence[1] if fence else text
    for mark in ("**", "__", "`"):
        if text.count(mark) % 2 == 0 and "```" not in text:
            text = text.replace(mark, "")
    return re.sub(r"(?<![\w*])\*([^*\s][^*\n]*)\*(?![\w*])", r"\1", text)


def _without_quotes(text: str) -> str:
    for pair in _QUOTES:
        if len(text) > 1 and text[0] + text[-1] == pair and text.count(text[0]) <= 2:
            return text[1:-1].strip()
    return text
