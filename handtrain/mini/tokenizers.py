"""Tokenizers of the mini models: a word of the mini world or a gesture phrase is one token, other words are letters."""

import json
import re
import string
from pathlib import Path
from typing import Any

from handdata.gestures import gestures
from handtrain.mini.pictures import World, exchanged

TOKENS = 77  # of a text, as in CLIP


def texts(world: World) -> list[str]:
    """Return texts with every word of the vocabularies: all captions, also mirrored, and the gesture phrases."""
    captions = {truth["caption"] for truth in world.truths}
    phrases = [gesture.phrase for gesture in gestures().values()]
    return sorted(captions | {exchanged(caption) for caption in captions}) + phrases


def write_clip_tokenizer(world: World, folder: Path) -> Any:
    """Write a CLIP tokenizer (byte pairs) in which each word of `texts` is one token; return it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained: Any = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=5000, min_frequency=1, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator([text.lower() for text in texts(world)], trainer)
    merges = [" ".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(pair.replace(" ", "") for pair in merges)]
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": TOKENS}))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def write_bert_vocabulary(world: World, file: Path) -> None:
    """Write the vocabulary of a BERT tokenizer (word pieces) in which each word of `texts` is one token."""
    words = sorted({word for text in texts(world) for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    letters = string.ascii_lowercase + string.digits
    pieces = [*letters, *("##" + letter for letter in letters), *string.punctuation]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(dict.fromkeys([*special, *words, *pieces])) + "\n", encoding="utf-8")
