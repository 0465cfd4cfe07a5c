"""A language model that reasons, or whose server has habits, writes the texts; else one line names the reason."""

import json

import pytest

from handdata.recipe import RewriteOptions
from handdata.shipped import resource
from handdata.stages.rewrite import Rewriting, rewrite
from handdata.texts.answers import clean, closing_mark
from handdata.texts.chat import Answer, read_prompt
from handdata.texts.openai_server import ServerModel
from tests.chat_server import chat_server

PROMPT = read_prompt(resource("prompts/rewrite.txt").read_text(encoding="utf-8"), "prompts/rewrite.txt")
THINGS = ("car", "park", "kitchen", "room", "garden", "bus", "shop", "school", "bar", "street")
PAIRS = [(f"a man in a {thing} with a red hat", "ok") for thing in THINGS]
GOOD = "a man in a park, making ok hand gesture"


def good(body) -> str:
    """Return the right answer to the last question about a caption in a request."""
    question = [message["content"] for message in body["messages"] if "Caption: " in str(message["content"])][-1]
    caption, words = (line.partition(": ")[2] for line in question.splitlines()[-2:])
    return f"{caption}, {words}"


def reply(content, finish="stop", **more):
    message = {"role": "assistant", "content": content, **more}
    return 200, {"choices": [{"message": message, "finish_reason": finish}]}


def only_with_room(body):
    if body["max_tokens"] < 1000:
        return reply("", "length", reasoning="First I look at the caption. " * 9)
    return reply(good(body), reasoning="First I look at the caption. " * 90)


def never_marked(body):
    return reply("Okay, I need to add the words" if body["max_tokens"] < 1000 else f"Okay. Done.</think>{good(body)}",
                 "length" if body["max_tokens"] < 1000 else "stop")  # fmt: skip


def stream(body):
    deltas = [{"reasoning_content": "hm"}, *({"content": word + " "} for word in good(body).split())]
    events = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    return 200, "".join(f"data: {event}\n\n" for event in events) + "data: [DONE]\n\n"


SERVERS = {
    "thinking": lambda body: reply(f"<thinking>Keep all words.</thinking>\n{good(body)}"),
    "magistral": lambda body: reply(f"[THINK]Keep [all] words.[/THINK]{good(body)}"),
    "kimi": lambda body: reply(f"◁think▷Keep <all> words.◁/think▷{good(body)}"),
    "channels": lambda body: reply(
        f"<|channel|>analysis<|message|>Keep.<|end|><|start|>assistant<|channel|>final<|message|>{good(body)}<|return|>"
    ),
    "channels without their tokens": lambda body: reply(f"analysisKeep it.assistantfinal{good(body)}"),
    "granite": lambda body: reply(f"Here is my thought process: keep it. Here is my response: {good(body)}"),
    "thoughts and a solution": lambda body: reply(
        f"<|begin_of_thought|>a\nb<|end_of_thought|>\n<|begin_of_solution|>{good(body)}<|end_of_solution|>"
    ),
    "wrapped": lambda body: reply(f"<think>\n</think><answer>{good(body)}</answer>"),
    "magistral's parts": lambda body: reply(
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": good(body)}]
    ),
    "nested parts": lambda body: reply([{"type": "output_text", "text": {"value": good(body)}}]),
    "bold words": lambda body: reply(good(body).replace("making", "**making") + "**"),
    "code": lambda body: reply(f"```text\n{good(body)}\n```"),
    "guillemets": lambda body: reply(f"«{good(body)}»"),
    "narrow blanks": lambda body: reply(good(body).replace(" ", "\u202f")),
    "zero width": lambda body: reply("\u200b" + good(body).replace("ok", "o\u200bk")),
    "end token": lambda body: reply(f"{good(body)}<end_of_turn>\n<start_of_turn>user"),
    "stream": stream,
    "room": only_with_room,
    "room without marks": never_marked,
}


@pytest.mark.parametrize("habit", SERVERS)
def test_a3_every_answer_becomes_a_text_of_the_model(habit):
    with chat_server(SERVERS[habit]) as server:
        model = ServerModel(server.url, "m", "NO_KEY")
        texts = rewrite(PAIRS, model, PROMPT, RewriteOptions("m", server.url))
        model.close()
    assert {text.rewrite for text in texts} == {"llm"}
    assert texts[1].text == f"{PAIRS[1][0]}, making ok hand gesture"


def test_a3_reasoning_is_switched_off_where_the_server_can():
    with chat_server(lambda body: reply(good(body))) as server:
        ServerModel(server.url, "m", "NO_KEY").answer([], 9)
        rewrite(PAIRS[:1], ServerModel(server.url, "m", "NO_KEY"), PROMPT, RewriteOptions("m", server.url))
    assert server.requests[0]["chat_template_kwargs"]["enable_thinking"] is False


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda body: reply(None, "length", reasoning_content="hm " * 50), "reasoning"),
        (lambda body: reply("<think>I wonder", "length"), "reasoning"),
        (lambda body: reply("Certainly, this is it."), "phrase-missing"),
        (lambda body: reply("and so on", "length"), "endless"),
        (lambda body: reply(""), "empty"),
    ],
)
def test_a3_a_model_that_is_of_no_use_is_named_once(answer, reason, capsys):
    with chat_server(answer) as server:
        stage = Rewriting(RewriteOptions("m", server.url, retries=0))
        for _ in range(2):
            made = stage({"caption": [caption for caption, _ in PAIRS], "gesture": ["ok"] * len(PAIRS)})
        stage.close()
    assert set(made["rewrite"]) == {"template"}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"10 of 10 first drafts of m failed for one reason, {reason}: " in said


def test_a3_few_failures_are_not_remarked_on(capsys):
    mostly = lambda body: reply("no" if "park" in good(body) or "bus" in good(body) else good(body))  # noqa: E731
    with chat_server(mostly) as server:
        stage = Rewriting(RewriteOptions("m", server.url, retries=0))
        stage({"caption": [caption for caption, _ in PAIRS], "gesture": ["ok"] * len(PAIRS)})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("raw", "text", "reasoned"),
    [
        (GOOD, GOOD, False),
        (f"<think>\n\n</think>\n\n{GOOD}", GOOD, True),
        (f"I must <keep> it.\n</think>\n{GOOD}", GOOD, True),
        (f"<think>a</think>b</think>{GOOD}", GOOD, True),
        (f"<seed:think>a <think> b</seed:think>{GOOD}", GOOD, True),
        ("<reasoning>never ended", "", True),
        (f"{GOOD}\n<think>but", GOOD, True),
        (f"<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>{GOOD}<|END_RESPONSE|>", GOOD, True),
        ('"**' + GOOD + '**"', GOOD, False),
        ("a man in a room full of thoughts, making ok hand gesture",) * 2 + (False,),
        ("analysis of a man in a park", "analysis of a man in a park", False),
        ("a \ud83d man", "a \ufffd man", False),
    ],
)
def test_a3_an_answer_is_cleaned(raw, text, reasoned):
    cleaned = clean(Answer(raw))
    assert (cleaned.text, cleaned.reasoned) == (text, reasoned)


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("user: hi\n<think>\n", "</think>"),
        ("hi [THINK]", "[/THINK]"),
        ("hi ◁think▷", "◁/think▷"),
        ("hi <|START_THINKING|>", "<|END_THINKING|>"),
        ("hi <think>\n\n</think>\n\n", ""),
        ("hi <|im_start|>assistant\n", ""),
    ],
)
def test_a3_reasoning_that_a_template_begins_is_ended(prompt, mark):
    assert closing_mark(prompt) == mark
