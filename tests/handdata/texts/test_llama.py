"""Answers of GGUF models through llama.cpp: templates, ends of answers, batches, seeds and grammars."""

from pathlib import Path

import pytest

from handdata import assets
from handdata.errors import UserError
from handdata.texts import llama
from handdata.texts.chat import Ask
from handdata.texts.llama import LlamaModel
from tests import tiny_llama

HELLO = (("system", "Be brief."), ("user", "hello there"))


@pytest.fixture(scope="module")
def polite(tmp_path_factory):
    """A model that answers `Yes sir` and ends its turn."""
    path = tiny_llama.make(tmp_path_factory.mktemp("gguf") / "polite.gguf", ["Yes", " sir", "<|eot_id|>"])
    model = LlamaModel(path, parallel=3, threads=1)
    yield model
    model.close()


@pytest.fixture(scope="module")
def small():
    model = LlamaModel(assets.path("smollm2-135m"), parallel=4, threads=1)
    yield model
    model.close()


def test_llama_3s_template_becomes_its_special_tokens_and_one_begin(polite):
    tokens = polite.tokens(HELLO)
    begin, header, end_header, eot = (
        tiny_llama.SPECIAL[name]
        for name in ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    )
    special = [token for token in tokens if token >= 128000]
    assert special == [begin, *(header, end_header, eot) * 2, header, end_header]
    assert tokens[:2] == [begin, header]
    words = tiny_llama._vocabulary()
    assert b"".join(words[token] for token in tokens if token < 128000) == (
        b"system\n\nBe brief.user\n\nhello thereassistant\n\n"
    )


def test_the_end_of_a_turn_ends_the_answer_and_is_not_part_of_it(polite):
    answers = polite.answer([Ask(HELLO)] * 5, 20)
    assert {(answer.text, answer.stop, answer.tokens) for answer in answers} == {("Yes sir", "end", 2)}


@pytest.mark.parametrize(
    ("tokens", "text", "stop"),
    [
        (["<|end_of_text|>"], "", "end"),
        (["<|eot_id|>"], "", "end"),
        ([" and", " on"], "and on on on on", "length"),
    ],
)
def test_empty_and_endless_answers_are_distinguished(tmp_path, tokens, text, stop):
    model = LlamaModel(tiny_llama.make(tmp_path / "odd.gguf", tokens), parallel=2, threads=1)
    (answer,) = model.answer([Ask(HELLO)], 5)
    model.close()
    assert (answer.text, answer.stop) == (text, stop)


def test_a_file_without_chat_template_is_refused(tmp_path):
    with pytest.raises(UserError, match="no chat template"):
        LlamaModel(tiny_llama.make(tmp_path / "bare.gguf", ["Yes"], template=None))


def test_a_missing_or_foreign_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"model file .*none\.gguf does not exist"):
        LlamaModel(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(UserError, match="not a GGUF file"):
        LlamaModel(tmp_path / "text.gguf")


def asks(number):
    """Short questions with a common beginning; the fifth and later are drawn at a temperature."""
    captions = [
        "a man in a car",
        "two women on a bench with a dog",
        "a boy",
        "a girl in a red coat at a table in a bar",
    ]
    system = ("system", "You are a careful editor. Repeat the caption, word for word, and add nothing to it at all.")
    return [Ask((system, ("user", f"Caption: {captions[n % 4]}")), 0.7 if n > 3 else 0.0, n) for n in range(number)]


def test_the_same_questions_get_the_same_answers_whatever_came_before(small):
    first = small.answer(asks(6), 12)
    small.answer([Ask(HELLO, 0.9, 7)], 10)
    assert small.answer(asks(6), 12) == first
    assert all(answer.text for answer in first)


def test_a_sequence_alone_gets_what_llama_cpps_own_loop_gives_it(small):
    import llama_cpp

    question = asks(1)[0]
    plain = llama_cpp.Llama(str(assets.path("smollm2-135m")), n_ctx=256, n_threads=1, verbose=False)
    turns = [{"role": role, "content": content} for role, content in question.messages]
    plain_answer = plain.create_chat_completion(turns, temperature=0.0, max_tokens=16)["choices"][0]["message"][
        "content"
    ]
    (answer,) = small.answer([question], 16)
    plain.close()
    assert answer.text == plain_answer.strip()


def test_the_shared_beginning_is_evaluated_once(small, monkeypatch):
    counted = []
    decoder = small._decoders[0]
    decode = decoder._decode
    monkeypatch.setattr(decoder, "_decode", lambda rows: (counted.append(len(rows)), decode(rows)))
    small.answer(asks(4), 2)
    whole = sum(len(small.tokens(ask.messages)) for ask in asks(4))
    assert counted[0] > 25 and sum(counted) < whole - 2 * counted[0]


@pytest.mark.slow
def test_answers_do_not_depend_on_the_number_of_cores(small, monkeypatch):
    monkeypatch.setattr(llama, "_QUESTIONS", 3)  # so that three decoders share ten questions
    other = LlamaModel(assets.path("smollm2-135m"), parallel=4, threads=2)
    questions = asks(10)
    answers = [model.answer(questions, 6) for model in (small, other, small)]
    other.close()
    assert answers[0] == answers[1] == answers[2]
    assert len({answer.text for answer in answers[0]}) > 5


def test_more_questions_than_sequences_and_one_too_long_all_get_an_answer(small):
    questions = [*asks(5), Ask((*HELLO[:1], ("user", "long " * 800)))]
    answers = small.answer(questions, 3)
    assert [answer.stop for answer in answers].count("prompt") == 1 and answers[5].stop == "prompt"
    assert all(answer.text for answer in answers[:5])


def test_seeds_draw_different_answers_and_the_same_seed_the_same(small):
    question = asks(5)[4]
    drawn = [Ask(question.messages, 1.5, seed) for seed in (1, 2, 1)]
    first, second, third = (small.answer([ask], 10)[0].text for ask in drawn)
    assert first == third != second


def test_a_grammar_forces_the_phrase(small):
    from handdata.stages.rewrite import phrase_grammar

    question = Ask(HELLO, 0.7, 3, phrase_grammar("making ok hand gesture"))
    (answer,) = small.answer([question], 40)
    assert answer.stop == "length" or "making ok hand gesture" in answer.text
    assert "\n" not in answer.text


def test_nothing_is_written_to_the_terminal(capfd, small):
    small.answer(asks(1), 2)
    LlamaModel(Path(assets.path("smollm2-135m")), threads=1).close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("gpu", "supported", "warned"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_gpu_that_llama_cpp_cannot_use_is_reported(monkeypatch, gpu, supported, warned):
    monkeypatch.setattr(llama.Path, "exists", lambda path: gpu and str(path) == "/dev/nvidia0")
    monkeypatch.setattr(llama, "gpu_supported", lambda: supported)
    remark = llama.idle_gpu()
    assert (remark is not None) == warned
    assert remark is None or "-DGGML_CUDA=on pip install" in remark
