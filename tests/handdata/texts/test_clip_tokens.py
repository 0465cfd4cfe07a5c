"""The counter of CLIP's tokens against the tokenizer of transformers."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handdata import assets
from handdata.texts.clip_tokens import clip_tokens


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory):
    """The tokenizer of transformers, made of the same vocabulary file."""
    from transformers import CLIPTokenizer

    lines = gzip.decompress(assets.path("clip-vocabulary").read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    vocabulary = {word: n for n, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    return CLIPTokenizer.from_pretrained(folder)


TEXTS = [
    "a man making thumbs up hand gesture",
    "A woman's t-shirt, 35 cm: it'll do!! (ok?)",
    "naïve café übergroß – “quoted” … ½ ² Ⅷ 一二三",
    "x" * 300,
    "hand&amp;hand &lt;b&gt;",
    "   spaces \t and\nlines  ",
    "emoji 👍🏽👩‍👩‍👧 and 你好世界",
    "",
    "antidisestablishmentarianism floccinaucinihilipilification",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_counted_as_transformers_counts_them(clip_tokenizer, text):
    expected = len(clip_tokenizer(text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))["input_ids"])
    assert clip_tokens().count(text) == expected


# Cn: what is not assigned yet is cut by each library according to the Unicode version that it knows
@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cn", "Cs"), exclude_characters="&<"), max_size=40))
def test_any_text_has_as_many_tokens_as_transformers_finds(clip_tokenizer, text):
    assert clip_tokens().count(text) == len(clip_tokenizer(text)["input_ids"])
