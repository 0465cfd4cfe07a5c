"""Texts do not depend on the calendar: chat templates get one date."""

import pytest

from handdata.recipe import RewriteOptions
from handdata.stages.rewrite import Rewriting
from handdata.texts.chat_template import DATE, ChatTemplate

TALK = (("system", "Be brief."), ("user", "one"), ("assistant", "two"), ("user", "three"))
TURNS = "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n{% endfor %}"
DATES = {
    "llama": "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today Date: {{ date_string }}\n",
    "smollm": "{%- set today = strftime_now('%d %B %Y') -%}Today Date: {{ today }}\n",
    "gpt-oss": "{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}\n",
    "hours": "{{ strftime_now('%A, %H:%M:%S %j') }}\n",
    "macro": "{% macro head() %}{{ strftime_now('%x') }}{% endmacro %}{{ head() }}\n",
}


def rendered(template: str) -> str:
    return ChatTemplate(template, "a.gguf", "<s>", "</s>")(TALK)


@pytest.mark.parametrize("kind", DATES)
def test_a2_every_way_to_print_today_prints_one_date(kind, monkeypatch):
    import llama_cpp.llama_chat_format as foreign

    class Tomorrow(foreign.datetime):  # what the library's own function reads
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2, 3, 4, 5)

    before = rendered(DATES[kind] + TURNS)
    monkeypatch.setattr(foreign, "datetime", Tomorrow)
    assert rendered(DATES[kind] + TURNS) == before
    assert "2031" not in before and "three" in before


def test_a2_the_date_of_llama_is_the_one_without_a_clock():
    bare = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}\n"
    assert rendered(bare + TURNS) == rendered("{{ strftime_now('%d %b %Y') }}\n" + TURNS)


def test_a2_the_date_is_part_of_the_key_of_texts():
    assert Rewriting.fingerprint(RewriteOptions("m", "http://127.0.0.1:9/v1"))["date"] == DATE.date().isoformat()
