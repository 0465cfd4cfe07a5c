"""The mini BLIP: it describes the sleeve, wall, skin and place in a picture of the mini world, not the gesture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handtrain.mini.loop import Schedule, fit
from handtrain.mini.pictures import SIZE, World
from handtrain.mini.tokenizers import write_bert_vocabulary

SCHEDULE = Schedule("captioner", steps=3000, batch=32, lr=1e-3, warmup=200)
_WIDTH = 96


@dataclass(frozen=True)
class Captioner:
    """The network and the processor of its inputs."""

    network: Any  # BlipForConditionalGeneration
    processor: Any  # BlipProcessor


def make(world: World, folder: Path) -> Captioner:
    """Return the untrained BLIP; write its vocabulary into the folder."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    write_bert_vocabulary(world, folder / "vocab.txt")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    images = BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    join: Any = BlipProcessor  # its constructor has no types
    torch.manual_seed(2)
    sizes: dict[str, Any] = {"hidden_size": _WIDTH, "intermediate_size": 4 * _WIDTH, "num_attention_heads": 4}
    tokens = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    text = BlipTextConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        encoder_hidden_size=_WIDTH,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **tokens,
        **sizes,
    )
    vision = BlipVisionConfig(image_size=SIZE, patch_size=8, num_hidden_layers=4, **sizes)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), initializer_range=0.02)
    return Captioner(BlipForConditionalGeneration(config), join(images, tokenizer))


def train(captioner: Captioner, world: World, folder: Path, schedule: Schedule = SCHEDULE) -> None:
    """Train the BLIP on pictures and their captions."""
    network, tokenizer, images = captioner.network, captioner.processor.tokenizer, captioner.processor.image_processor
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (images.image_mean, images.image_std))

    def loss(rows: list[int], mirrored: list[bool], generator: torch.Generator) -> torch.Tensor:
        pixels = ((world.images(rows, mirrored) + 1) / 2 - mean) / deviation
        words = tokenizer(world.captions(rows, mirrored), padding=True, return_tensors="pt")
        labels = words.input_ids.masked_fill(words.input_ids == tokenizer.pad_token_id, -100)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(
                pixel_values=pixels, input_ids=words.input_ids, attention_mask=words.attention_mask, labels=labels
            )
        value: torch.Tensor = output.loss.float()
        return value

    fit(schedule, network, loss, len(world), folder)


def save(captioner: Captioner, folder: Path) -> None:
    """Write the model in 16-bit floats, like BLIP on the Hub."""
    captioner.network.generation_config.eos_token_id = captioner.processor.tokenizer.sep_token_id
    captioner.network.to(torch.float16).save_pretrained(folder)
    captioner.network.to(torch.float32)
    captioner.processor.save_pretrained(folder)
