"""Stable Diffusion XL: two text encoders, a pooled embedding, and the sizes of the image and its crop.

Source: Podell and others, SDXL, arXiv 2307.01952, section 2.2; diffusers' StableDiffusionXLPipeline.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from handtrain.data.crops import Window
from handtrain.method.prediction import UNET, Form, Inputs, Texts
from handtrain.model import components, tokenizer
from handtrain.model.backbones import stable_diffusion
from handtrain.model.backbones.interface import Sizes
from handtrain.model.components import Component, Config
from handtrain.model.weights import Unusable
from handtrain.model.xl_pipeline import Hand1000XLPipeline

PIPELINE = "StableDiffusionXLPipeline"
TUNED_PIPELINE: type | None = Hand1000XLPipeline
SAMPLER = "DDIMScheduler"
NETWORKS: dict[str, Component] = {
    "unet": components.UNET,
    "vae": components.VAE,
    "text_encoder": components.CLIP_TEXT,
    "text_encoder_2": components.CLIP_TEXT_PROJECTED,
}
TRAINED: str = "unet"
TOKENIZERS: dict[str, str] = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
TOKENIZER_CLASSES: tuple[tuple[str, str], ...] = tokenizer.TOKENIZER_NAMES
SETTINGS: tuple[str, ...] = ("force_zeros_for_empty_prompt", "add_watermarker")
FORM: Form = UNET
FUSIONS: tuple[str, ...] = ("token",)
POSES: bool = True
FLOW: bool = False
RANK: int = 0
OPTIONAL: tuple[str, ...] = ("image_encoder", "feature_extractor")

check_schedule = stable_diffusion.check_schedule
training_schedule = stable_diffusion.training_schedule
sampling_schedule = stable_diffusion.sampling_schedule
load_tokenizer = tokenizer.load_tokenizer
check_tokenizer = stable_diffusion.check_tokenizer
shift = stable_diffusion.shift

_SIZE_NUMBERS = 6  # of an image and its crop, which the UNet embeds one by one


def sizes(configs: Mapping[str, Config]) -> Sizes:
    """See `Backbone`."""
    unet, first, second = configs["unet"], configs["text_encoder"], configs["text_encoder_2"]
    tokens = first["max_position_embeddings"]
    if second["max_position_embeddings"] != tokens:
        raise Unusable("its text encoders read texts of different lengths")
    if unet.get("addition_embed_type") != "text_time":
        raise Unusable(f"its UNet reads no sizes of images (addition_embed_type {unet.get('addition_embed_type')})")
    numbers = second["projection_dim"] + _SIZE_NUMBERS * (unet.get("addition_time_embed_dim") or 0)
    if unet.get("projection_class_embeddings_input_dim") != numbers:
        raise Unusable("its UNet does not fit its text encoders: it is the refiner, or another variant")
    return stable_diffusion.sizes_of_unet(unet, configs["vae"], first["hidden_size"] + second["hidden_size"], tokens)


def blank_ids(tokens: int) -> list[Any]:
    """See `Backbone`."""
    return [[0] * tokens, [0] * tokens]


def ids(tokenizers: Sequence[Any], text: str, tokens: int, settings: Config) -> list[Any]:
    """Return the ids of a text for both encoders; none for an empty text where the model uses zeros in its place."""
    if not text and settings.get("force_zeros_for_empty_prompt", True):
        return []
    return [each(text, padding="max_length", max_length=tokens, truncation=True).input_ids for each in tokenizers]


def encode(encoders: Sequence[Any], ids: list[Any]) -> Inputs:
    """Return both encoders' last but one hidden states, joined (tokens, width), and the second's pooled embedding."""
    first, second = encoders
    if not ids:
        tokens, width = first.config.max_position_embeddings, first.config.hidden_size + second.config.hidden_size
        blank = torch.zeros(tokens, width, device=first.device, dtype=first.dtype)
        return {"embedding": blank, "text_embeds": blank.new_zeros(second.config.projection_dim)}
    with torch.no_grad():
        answers = [
            encoder(torch.tensor([numbers], device=encoder.device), output_hidden_states=True)
            for encoder, numbers in zip(encoders, ids, strict=True)
        ]
    states = [answer.hidden_states[-2][0] for answer in answers]  # (tokens, width of the encoder) each
    return {"embedding": torch.cat(states, dim=-1), "text_embeds": answers[1].text_embeds[0]}


def image_inputs(sizes: Sequence[tuple[int, int]], windows: Sequence[Window]) -> Inputs:
    """Return (n, 6) `time_ids`: height and width of the image, top and left of the crop, height and width of the crop.

    The crop is counted in pixels of the resized image, as in diffusers' training of SDXL.
    """
    rows = [
        (height, width, cut.top, cut.left, cut.size, cut.size)
        for (width, height), cut in zip(sizes, windows, strict=True)
    ]
    return {"time_ids": torch.tensor(rows, dtype=torch.float32)}


def decodes_in_float32(vae: Config) -> bool:
    """See `Backbone`: yes, unless its configuration states that it was made for half precision."""
    return bool(vae.get("force_upcast", True))


def pipeline(parts: Mapping[str, Any], tuned: bool, settings: Config) -> Any:
    """See `Backbone`."""
    kind: Any = Hand1000XLPipeline if tuned else StableDiffusionXLPipeline
    encoders = dict.fromkeys((*TOKENIZERS, *TOKENIZERS.values()))
    zeros = settings.get("force_zeros_for_empty_prompt", True)
    return kind(**{**encoders, **parts}, force_zeros_for_empty_prompt=zeros, add_watermarker=False)


def call(positive: Texts, negative: Texts, guidance: float, eta: float) -> dict[str, Any]:
    """See `Backbone`."""
    return {
        "prompt_embeds": positive.embedding,
        "negative_prompt_embeds": negative.embedding,
        "pooled_prompt_embeds": positive.more["text_embeds"],
        "negative_pooled_prompt_embeds": negative.more["text_embeds"],
        "guidance_scale": guidance,
        "eta": eta,
    }
