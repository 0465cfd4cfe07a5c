"""Stable Diffusion 1 and 2."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from handtrain.data.crops import Window
from handtrain.method.prediction import UNET, Form, Inputs, Texts
from handtrain.model import components, tokenizer
from handtrain.model.backbones.interface import Sizes
from handtrain.model.components import Component, Config
from handtrain.model.pipeline import Hand1000Pipeline
from handtrain.model.weights import Unusable

PIPELINE = "StableDiffusionPipeline"
TUNED_PIPELINE: type | None = Hand1000Pipeline
SAMPLER = "DDIMScheduler"
NETWORKS: dict[str, Component] = {
    "unet": components.UNET,
    "vae": components.VAE,
    "text_encoder": components.CLIP_TEXT,
}
TRAINED: str = "unet"
TOKENIZERS: dict[str, str] = {"text_encoder": "tokenizer"}
TOKENIZER_CLASSES: tuple[tuple[str, str], ...] = tokenizer.TOKENIZER_NAMES
SETTINGS: tuple[str, ...] = ()
FORM: Form = UNET
FUSIONS: tuple[str, ...] = ("flat", "token")
POSES: bool = True
FLOW: bool = False
RANK: int = 0
OPTIONAL: tuple[str, ...] = components.OPTIONAL

check_schedule = components.check_schedule
load_tokenizer = tokenizer.load_tokenizer

_LARGEST_SIDE = 8192  # pixels


def sizes(configs: Mapping[str, Config]) -> Sizes:
    """See `Backbone`."""
    unet, text = configs["unet"], configs["text_encoder"]
    return sizes_of_unet(unet, configs["vae"], text["hidden_size"], text["max_position_embeddings"])


def sizes_of_unet(unet: Config, vae: Config, width: int, tokens: int) -> Sizes:
    """Return the sizes of a model with a UNet. Raises `Unusable` if it is not a text-to-image model."""
    if unet["in_channels"] != vae["latent_channels"]:
        raise Unusable(
            f"its UNet takes {unet['in_channels']} channels, its VAE has {vae['latent_channels']}: "
            "handtrain trains text-to-image models"
        )
    factor, side = 2 ** (len(vae["block_out_channels"]) - 1), unet["sample_size"]
    if type(side) is not int or not 1 <= side * factor <= _LARGEST_SIDE:
        raise Unusable(f"the sample_size {str(side)[:40]} of its UNet is not a side of square images")
    return Sizes(side * factor, factor, width, tokens, factor * 2 ** (len(unet["down_block_types"]) - 1))


def training_schedule(config: Config) -> Any:
    """Return the noise schedule of the base as a DDPMScheduler."""
    import diffusers

    return _untyped(diffusers.DDPMScheduler).from_config(config)


def sampling_schedule(config: Config) -> Any:
    """Return the same schedule as a DDIMScheduler with Stable Diffusion's conventions (no clipping of latents)."""
    import diffusers

    conventions = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return _untyped(diffusers.DDIMScheduler).from_config({**config, **conventions})


def check_tokenizer(loaded: Any, text_encoder: Config) -> None:
    """See `Backbone`."""
    tokenizer.check_tokenizer(loaded, text_encoder["vocab_size"])


def blank_ids(tokens: int) -> list[Any]:
    """See `Backbone`."""
    return [0] * tokens


def ids(tokenizers: Sequence[Any], text: str, tokens: int, settings: Config) -> list[Any]:
    """Return the ids of a text, padded to `tokens`."""
    numbers: list[Any] = tokenizers[0](text, padding="max_length", max_length=tokens, truncation=True).input_ids
    return numbers


def encode(encoders: Sequence[Any], ids: list[Any]) -> Inputs:
    """Return the text encoder's last hidden state (tokens, width), layer-normed."""
    encoder = encoders[0]
    with torch.no_grad():
        state = encoder(torch.tensor([ids], device=encoder.device))[0]  # (1, tokens, width)
    return {"embedding": state[0]}


def image_inputs(sizes: Sequence[tuple[int, int]], windows: Sequence[Window]) -> Inputs:
    """See `Backbone`: the UNet reads nothing else."""
    return {}


def shift(vae: Config) -> float:
    """See `Backbone`."""
    return 0.0


def decodes_in_float32(vae: Config) -> bool:
    """See `Backbone`."""
    return False


def pipeline(parts: Mapping[str, Any], tuned: bool, settings: Config) -> Any:
    """See `Backbone`; without a safety checker, which would turn images black."""
    kind: Any = Hand1000Pipeline if tuned else StableDiffusionPipeline
    optional = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    return kind(**{**optional, **parts}, requires_safety_checker=False)


def call(positive: Texts, negative: Texts, guidance: float, eta: float) -> dict[str, Any]:
    """See `Backbone`."""
    return {
        "prompt_embeds": positive.embedding,
        "negative_prompt_embeds": negative.embedding,
        "guidance_scale": guidance,
        "eta": eta,
    }


def _untyped(value: Any) -> Any:
    return value  # diffusers has no types
