"""CLIP's tokenizer as files for transformers, made from its vocabulary file: a single file of weights has none."""

import gzip
import json
from pathlib import Path

from handdata import assets
from handdata.files import sha256_of, whole_folder

_VOCABULARY = "clip-vocabulary"  # name in manifests/assets.toml
_TOKENS = 49408
_START, _END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(padding: str, tokens: int) -> Path:
    """Return a folder in the cache with CLIP's tokenizer, which pads texts to `tokens` with the token `padding`.

    Version 1 pads with the end of a text, version 2 with `!`. Raises `UserError` without the vocabulary file.
    """
    vocabulary = assets.path(_VOCABULARY)
    name = f"clip-tokenizer-{sha256_of(vocabulary)[:8]}-{tokens}-{'end' if padding == _END else 'mark'}"
    folder = assets.cache_folder() / name
    texts = _files(vocabulary, padding, tokens)
    if any(not (folder / file).is_file() or (folder / file).read_bytes() != text for file, text in texts.items()):
        with whole_folder(folder) as partial:
            for file, text in texts.items():
                (partial / file).write_bytes(text)
    return folder


def _files(vocabulary: Path, padding: str, tokens: int) -> dict[str, bytes]:
    """Return the content of the tokenizer's files by name.

    Tokens are numbered: the letters of the 256 bytes, those at the end of a word, the merges, start and end.
    """
    letters = _byte_letters()
    lines = gzip.decompress(vocabulary.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : _TOKENS - 2 * len(letters) - 2 + 1]  # after a heading line
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    numbers = {word: number for number, word in enumerate([*words, _START, _END])}
    config = {
        "bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": padding, "model_max_length": tokens,
        "do_lower_case": True, "tokenizer_class": "CLIPTokenizer",
    }  # fmt: skip
    texts = {
        "vocab.json": json.dumps(numbers, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }
    return {name: text.encode("utf-8") for name, text in texts.items()}


def _byte_letters() -> list[str]:
    """Return the letters of bytes in CLIP's order: printable bytes as themselves, then the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
