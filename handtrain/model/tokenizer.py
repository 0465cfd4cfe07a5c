"""The tokenizer of a base model, and the image processor of its safety checker: loaded and tried."""

import inspect
import json
from pathlib import Path
from typing import Any

from handtrain.model.components import Config, read_config, refusals
from handtrain.model.weights import Unusable

TOKENIZER_NAMES = (("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast"))
PROCESSOR_NAMES = (("transformers", "CLIPImageProcessor"), ("transformers", "CLIPFeatureExtractor"))
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_ONE_OF = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_PROCESSOR_KEYS = (
    "size", "crop_size", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "image_mean",
    "image_std", "resample", "rescale_factor",
)  # fmt: skip
_PROBE = "A  Hand, 2 fingers: it's PALM-up\u00e9!\tok"  # case, spaces, digits, marks and an accent
_MOST_PIXELS = 4096  # side of the safety checker's image


def load_tokenizer(folder: Path, tokens: int) -> Any:
    """Load CLIP's tokenizer for texts of a number of tokens. Raises `Unusable` for missing or damaged files."""
    from transformers import CLIPTokenizer

    if not any(all((folder / name).is_file() for name in names) for names in _ONE_OF):
        raise Unusable("it has neither tokenizer.json nor both of vocab.json and merges.txt: fetch it again")
    with refusals("its files cannot be read"):
        tokenizer: Any = CLIPTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = tokens
    return tokenizer


def check_tokenizer(tokenizer: Any, vocabulary: int) -> None:
    """Raise `Unusable` unless vocabulary and merges are whole and fit a text encoder of `vocabulary` tokens.

    Every token of several characters needs a merge that makes it: a shorter list of merges would cut texts into other
    tokens without an error.
    """
    from tokenizers import pre_tokenizers

    numbers: dict[str, int] = tokenizer.get_vocab()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        model = _byte_pairs(backend)
        letters = pre_tokenizers.ByteLevel.alphabet()
        simple = {*letters, *(letter + "</w>" for letter in letters)}
        special = {*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder}
        merged = {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model["merges"]}
        lost, made = simple - numbers.keys(), simple | special | merged  # `made` once: it has 50,000 tokens
        unmerged = [name for name in model["vocab"] if name not in made]
        if lost or unmerged:
            raise Unusable(
                f"its vocabulary and merges do not fit each other ({len(lost) + len(unmerged)} tokens): fetch it again"
            )
        _check_rules(tokenizer, model)
    if max(numbers.values()) >= vocabulary or len(set(numbers.values())) != len(numbers):
        raise Unusable(f"it has tokens that the text encoder, with {vocabulary} tokens, does not know")
    with refusals("it cannot read a text"):
        ids = tokenizer(
            "a hand", padding="max_length", max_length=tokenizer.model_max_length, truncation=True
        ).input_ids
    whole = (
        len(ids) == tokenizer.model_max_length and ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id in ids
    )
    if not whole:
        raise Unusable("it does not mark begin and end of a text: fetch it again")


def _check_rules(tokenizer: Any, model: Config) -> None:
    """Raise `Unusable` unless a text is normalized and split as CLIP does: tokenizer.json holds these rules too."""
    from transformers import CLIPTokenizer

    if not {"vocab", "merges"} <= inspect.signature(CLIPTokenizer).parameters.keys():  # before transformers 5
        return
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    with refusals("its rules are not CLIP's"):
        make: Any = CLIPTokenizer
        padding = tokenizer.pad_token or "<|endoftext|>"  # "!" of version 2 and XL is a token of its own in a text too
        ours = make(vocab=model["vocab"], merges=merges, pad_token=padding)(_PROBE).input_ids
        theirs = tokenizer(_PROBE).input_ids
    if ours != theirs:
        raise Unusable("its rules are not CLIP's (it cuts a text into other tokens): fetch it again")


def _byte_pairs(backend: Any) -> Config:
    """Return the vocabulary and merges of a fast tokenizer. Raises `Unusable` if it is not one of byte pairs."""
    model: Config = json.loads(backend.to_str())["model"]
    if model.get("type") != "BPE":
        raise Unusable(f"it is a tokenizer of the kind {model.get('type')}: CLIP's has byte pairs")
    return model


def load_processor(folder: Path, side: int) -> Any:
    """Load the image processor of a safety checker. Raises `Unusable` if it does not make images of `side` pixels."""
    from PIL import Image
    from transformers import CLIPImageProcessor

    config = read_config(folder / "preprocessor_config.json")
    sides = [value for name in ("size", "crop_size") for value in _sides(config.get(name))]
    if not all(type(value) is int and 1 <= value <= _MOST_PIXELS for value in sides):
        raise Unusable("its preprocessor_config.json has an impossible size")
    with refusals("its preprocessor_config.json is not supported"):
        make: Any = CLIPImageProcessor
        chosen = {name: config[name] for name in _PROCESSOR_KEYS if name in config}
        processor = make(**chosen)
        shape = tuple(processor(Image.new("RGB", (2 * side, 3 * side)), return_tensors="pt").pixel_values.shape)
    if shape != (1, 3, side, side):
        raise Unusable(f"it makes images of {shape[-1]} px, and the safety checker sees {side} px")
    return processor


def _sides(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value.values()) if isinstance(value, dict) else [value]
