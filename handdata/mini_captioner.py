"""A BLIP of the real class with few and random weights: what stands in for a captioner in the recipe `mini`.

Its words follow from the picture by chance, so that a whole build can be tried at any place in minutes; they describe
nothing. The recipe names it as `random-tiny`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

NAME = "random-tiny"

_VERSION = 1  # raised when the weights or the words change
_WORDS = """[PAD] [CLS] [SEP] [UNK] [MASK] a man woman boy girl person in front of the wall with red blue green black
white shirt hat standing sitting on chair room kitchen and large small""".split()
_SIZE = 32  # px


def folder() -> Path:
    """Return the model's folder in the cache of model files, made there if it is missing."""
    from handdata import assets

    place = assets.cache_folder() / f"{NAME}-{_VERSION}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{NAME}."))
        _make(partial)
        try:
            partial.rename(place)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
            assert place.is_dir()
    return place


def _make(place: Path) -> None:
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    (place / "vocab.txt").write_text("\n".join(_WORDS), encoding="utf-8")
    images = BlipImageProcessor(size={"height": _SIZE, "width": _SIZE})
    processor: Any = BlipProcessor  # its constructor has no types
    processor(images, BertTokenizer(vocab=str(place / "vocab.txt"))).save_pretrained(place)
    narrow: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tokens: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    text = BlipTextConfig(vocab_size=len(_WORDS), encoder_hidden_size=16, **tokens, **narrow)
    vision = BlipVisionConfig(image_size=_SIZE, patch_size=16, **narrow)
    generator = torch.Generator().manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() > 1:  # large weights: captions differ from image to image
            torch.nn.init.normal_(parameter, std=4.0 if "position" in name else 1.0, generator=generator)
        elif name.endswith("predictions.bias"):  # only words, and no end: the recipe's max_new_tokens ends a caption
            torch.nn.init.constant_(parameter[:5], -1e4)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(place)
