"""Chat templates and servers that refuse a part of the conversation get another form of it."""

from dataclasses import replace

import pytest

from handdata.errors import UserError
from handdata.recipe import RewriteOptions
from handdata.stages.rewrite import Rewriting, load_model
from handdata.texts.chat import Ask
from handdata.texts.chat_template import ChatTemplate
from handdata.texts.llama import LlamaModel
from handdata.texts.openai_server import ServerModel
from tests import tiny_llama
from tests.chat_server import chat_server, says

TALK = (("system", "Be brief."), ("user", "one"), ("assistant", "two"), ("user", "three"))
TURNS = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"
REFUSALS = {
    "gemma": "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + TURNS,
    "alternation": "{% for turn in messages %}{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + TURNS,
    "silent": "{% for turn in messages if turn.role != 'system' %}<{{ turn.role }}>{{ turn.content }}{% endfor %}",
    "key error": "{{ {'user': 1, 'assistant': 2}[messages[0].role] + 0 }}" + TURNS,
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_d4_the_system_text_joins_the_first_question(kind):
    prompt = ChatTemplate(REFUSALS[kind], "a.gguf", "", "")(TALK)
    assert prompt.endswith("<user>Be brief.\n\none<assistant>two<user>three")


def test_d4_a_template_for_lists_of_parts_gets_them():
    parts = "{% for part in turn.content %}{{ part.text }}{% endfor %}"
    listed = TURNS.replace("{{ turn.content }}", parts)
    assert ChatTemplate(listed, "a.gguf", "", "")(TALK) == "<system>Be brief.<user>one<assistant>two<user>three"


@pytest.mark.parametrize(
    "template", ["{% if %}", "{{ raise_exception('never') }}", "hello", "{{ 1 // 0 }}", "{{ messages | nothing }}"]
)
def test_d4_a_template_that_cannot_be_used_is_one_sentence(template):
    with pytest.raises(UserError, match=r"chat template of a\.gguf cannot be used .*--rewrite\.template") as error:
        ChatTemplate(template, "a.gguf", "", "")
    assert "\n" not in str(error.value)


def test_d4_reasoning_is_switched_off_in_the_prompt():
    qwen = TURNS + "<a>{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    assert ChatTemplate(qwen, "a.gguf", "", "")(TALK).endswith("<a><think></think>")
    assert ChatTemplate(TURNS + "<a><think>\n", "a.gguf", "", "")(TALK).endswith("<a><think>\n\n</think>\n\n")


@pytest.mark.slow
def test_d4_a_file_without_template_takes_one(tmp_path):
    path = tiny_llama.make(tmp_path / "bare.gguf", ["Yes", "<|eot_id|>"], template=None)
    template = tmp_path / "llama3.jinja"
    template.write_bytes(b"\xef\xbb\xbf" + tiny_llama.TEMPLATE.encode())  # with a byte order mark
    model = load_model(RewriteOptions(str(path), template=str(template)))
    assert [answer.text for answer in model.answer([Ask(TALK)], 5)] == ["Yes"]
    model.close()
    with pytest.raises(UserError, match=r"--rewrite\.template \(in `handdata rewrite`: --template\)"):
        LlamaModel(path)


def test_d4_the_text_of_a_template_is_part_of_the_key_and_its_file_is_checked(tmp_path):
    path, template = tmp_path / "a.gguf", tmp_path / "my.jinja"
    path.write_bytes(b"GGUF")
    template.write_text(TURNS)
    options = RewriteOptions(str(path), template=str(template))
    before = Rewriting.fingerprint(options)
    template.rename(tmp_path / "other.jinja")
    assert Rewriting.fingerprint(replace(options, template=str(tmp_path / "other.jinja"))) == before
    template.write_text(TURNS + " ")
    assert Rewriting.fingerprint(options) != before
    with pytest.raises(UserError, match=r"--rewrite\.template .*none\.jinja does not exist"):
        load_model(RewriteOptions(str(path), template=str(tmp_path / "none.jinja")))
    with pytest.raises(UserError, match="own chat template"):
        load_model(RewriteOptions("m", "http://127.0.0.1:9/v1", template=str(template)))


def refusing(*refuses, status=400):
    """Return a script that refuses requests for the first reason that applies: (whether it applies, the error)."""

    def script(body):
        for applies, error in refuses:
            if applies(body):
                return status, error
        return says("fine")

    return script


def has(name):
    return lambda body: name in body


def starts_with_system(body):
    return body["messages"][0]["role"] == "system"


STRICT = (
    lambda body: set(body) - {"model", "messages"},
    {"detail": "Bad Request"},
)
REFUSING = {
    "renamed": refusing((has("max_tokens"), {"error": {"message": "use another", "param": "max_tokens"}})),
    "no limit at all": refusing(
        (has("max_tokens"), {"error": "unsupported: max_tokens"}),
        (has("max_completion_tokens"), {"error": "unknown field max_completion_tokens"}),
    ),
    "only the default temperature": refusing(
        (lambda body: body.get("temperature") != 1, {"error": {"message": "temperature: only 1 is supported"}})
    ),
    "no temperature": refusing((has("temperature"), {"error": {"message": "`temperature` is deprecated"}})),
    "pydantic": refusing(
        (has("seed"), {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "input": 0}]}),
        (has("chat_template_kwargs"), {"detail": [{"loc": ["body", "chat_template_kwargs"]}]}),
        status=422,
    ),
    "nameless": refusing(STRICT),
    "no system turn": refusing((starts_with_system, {"message": "Conversation roles must alternate"})),
    "jinja in the server": refusing(
        (starts_with_system, {"error": {"code": 500, "message": "Jinja Exception: System role not supported"}}),
        status=500,
    ),
    "an error with status 200": refusing((has("seed"), {"error": {"code": 400, "message": "seed?"}}), status=200),
    "everything": refusing(
        (starts_with_system, "only user and assistant roles"), (has("seed"), "seed"), (has("max_tokens"), "max_tokens"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("habit", REFUSING)
def test_d4_a_server_that_refuses_a_field_is_asked_without_it_and_remembered(habit):
    with chat_server(REFUSING[habit]) as server:
        model = ServerModel(server.url, "m", "NO_KEY", parallel=4)
        model.pause = 0.01
        answers = model.answer([Ask(TALK)] * 12, 20)
        assert [answer.text for answer in answers] == ["fine"] * 12
        tried = len(server.requests)
        model.answer([Ask(TALK)] * 6, 20)
        model.close()
    assert len(server.requests) == tried + 6
    assert tried <= 12 + 4 + 9  # at most all at once are refused, and one finds the form
    said = "".join(message["content"] for message in server.requests[-1]["messages"])
    assert all(text in said for _, text in TALK)


def test_d4_a_request_that_no_form_helps_is_one_sentence():
    refuse = lambda body: (400, {"error": {"message": "the first\nreason"}})  # noqa: E731
    with chat_server(refuse) as server, pytest.raises(UserError, match=r"rejects the request .*the first") as error:
        ServerModel(server.url, "m", "NO_KEY").answer([Ask(TALK)], 20)
    assert "\n" not in str(error.value)


def test_d4_a_prompt_beyond_the_context_is_the_failure_of_a_draft():
    message = "This model's maximum context length is 128 tokens, reduce max_tokens"
    with chat_server(lambda body: (400, {"error": {"message": message}})) as server:
        (answer,) = ServerModel(server.url, "m", "NO_KEY").answer([Ask(TALK)], 20)
    assert answer.stop == "prompt" and len(server.requests) == 1
