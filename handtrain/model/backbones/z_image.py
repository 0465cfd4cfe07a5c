"""Z-Image: a transformer trained by flow matching, with a language model as text encoder.

Source: Z-Image Team, "Z-Image", arXiv 2511.22699; diffusers' ZImagePipeline. The network reads 1 - sigma as its time
and predicts image - noise, both the other way round than most flow-matching models.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

from handtrain.data.crops import Window
from handtrain.method.prediction import Form, Inputs, Texts
from handtrain.model import components
from handtrain.model.backbones.interface import Sizes
from handtrain.model.components import Component, Config, known, refusals
from handtrain.model.weights import Unusable

_TOKENS = 512  # of a text at most, with its chat template: the default of diffusers' pipeline
_PATCH = 2  # cells of the latent per side of a token
_LARGEST_SIDE = 8192  # pixels


def _transformer(config: Config) -> Any:
    import diffusers

    make: Any = diffusers.ZImageTransformer2DModel
    return make(**known(config, make))


def _text_encoder(config: Config) -> Any:
    import transformers

    make: Any = transformers.Qwen3Config
    # older files state the base of the rotations as a number, newer ones in an object
    rotations = config.get("rope_parameters") or {"rope_type": "default", "rope_theta": config.get("rope_theta")}
    if rotations.get("rope_type") != "default" or config.get("rope_scaling"):
        raise Unusable("its rotations (rope_scaling) are not those of Qwen3: fetch the file again")
    if config.get("use_sliding_window"):
        raise Unusable("its attention sees a part of the text alone (use_sliding_window)")
    rest = {name: value for name, value in config.items() if name not in ("rope_parameters", "use_cache")}
    base = {"rope_type": "default", "rope_theta": float(rotations["rope_theta"])}
    return transformers.Qwen3Model(make(**known(rest, make), rope_parameters=base, use_cache=False))


PIPELINE = "ZImagePipeline"
TUNED_PIPELINE: type | None = None
SAMPLER = "FlowMatchEulerDiscreteScheduler"
NETWORKS: dict[str, Component] = {
    "transformer": Component(
        _transformer,
        (("diffusers", "ZImageTransformer2DModel"),),
        ("in_channels", "dim", "n_layers", "n_refiner_layers", "n_heads", "cap_feat_dim", "axes_dims", "axes_lens"),
    ),
    "vae": components.VAE,
    "text_encoder": Component(
        _text_encoder,
        (("transformers", "Qwen3Model"), ("transformers", "Qwen3ForCausalLM")),
        (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size",
        ),
        "model",
        "lm_head",
    ),
}  # fmt: skip
TRAINED: str = "transformer"
TOKENIZERS: dict[str, str] = {"text_encoder": "tokenizer"}
TOKENIZER_CLASSES: tuple[tuple[str, str], ...] = (
    ("transformers", "Qwen2Tokenizer"), ("transformers", "Qwen2TokenizerFast"),
)  # fmt: skip
SETTINGS: tuple[str, ...] = ()
FUSIONS: tuple[str, ...] = ()
POSES: bool = False
FLOW: bool = True
RANK: int = 16
OPTIONAL: tuple[str, ...] = ()


def _arguments(
    noisy: torch.Tensor, times: torch.Tensor, embeddings: torch.Tensor, more: Inputs
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments: images of one frame and texts without their padding, each in a list."""
    return (list(noisy[:, :, None]), times, _cut(embeddings, more)), {"return_dict": False}


def _prediction(answer: Any) -> torch.Tensor:
    return -torch.stack(answer[0])[:, :, 0]  # noise - image


FORM: Form = Form(_arguments, _prediction)


def _cut(embeddings: torch.Tensor, more: Inputs) -> list[torch.Tensor]:
    """Return the embedding (tokens of the text, width) of every text; without values all are whole."""
    lengths = more["length"]
    if lengths.is_meta:
        return list(embeddings)
    return [embedding[:length] for embedding, length in zip(embeddings, lengths.tolist(), strict=True)]


def sizes(configs: Mapping[str, Config]) -> Sizes:
    """See `Backbone`. The side of images is that of the VAE: the transformer states none."""
    network, vae, text = configs["transformer"], configs["vae"], configs["text_encoder"]
    if network["in_channels"] != vae["latent_channels"]:
        raise Unusable(
            f"its transformer takes {network['in_channels']} channels, its VAE has {vae['latent_channels']}: "
            "handtrain trains text-to-image models"
        )
    if network["cap_feat_dim"] != text["hidden_size"]:
        raise Unusable("its transformer and its text encoder have different widths")
    if network.get("siglip_feat_dim") is not None:
        raise Unusable("its transformer reads images too: handtrain trains text-to-image models")
    factor, side = 2 ** (len(vae["block_out_channels"]) - 1), vae.get("sample_size")
    step = factor * _PATCH
    if type(side) is not int or not 1 <= side <= _LARGEST_SIDE or side % step:
        raise Unusable(f"the sample_size {str(side)[:40]} of its VAE is not a side of square images")
    places = network["axes_lens"]
    if not isinstance(places, list) or len(places) != 3 or places[0] < _TOKENS + 2 or min(places[1:]) < side // step:
        raise Unusable(f"its axes_lens {str(places)[:60]} have no places for {_TOKENS} tokens and {side} px")
    return Sizes(side, factor, text["hidden_size"], _TOKENS, step)


def check_schedule(config: Config) -> None:
    """Raise `Unusable` for a scheduler that is not flow matching with one fixed time shift."""
    kind = str(config.get("_class_name"))
    if kind != SAMPLER:
        raise Unusable(f"it is a {kind[:80]}: handtrain trains this model with a {SAMPLER}")
    steps, shift = config.get("num_train_timesteps", 1000), config.get("shift", 1.0)
    if type(steps) is not int or not 1 <= steps <= 100_000:
        raise Unusable("its num_train_timesteps is not a number of times")
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not 0 < shift <= 100:
        raise Unusable(f"its shift {str(shift)[:40]} is not a number above 0")
    others = (
        "use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas",
        "shift_terminal", "stochastic_sampling",
    )  # fmt: skip
    if given := next((name for name in others if config.get(name)), None):
        raise Unusable(f"its {given} is not supported: the times of Z-Image have one fixed shift")


def training_schedule(config: Config) -> Any:
    """See `Backbone`."""
    make: Any = FlowMatchEulerDiscreteScheduler
    return make.from_config(config)


sampling_schedule = training_schedule


def load_tokenizer(folder: Path, tokens: int) -> Any:
    """Load Qwen's tokenizer. Raises `Unusable` for missing or damaged files, and without a chat template."""
    from transformers import Qwen2Tokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise Unusable("it has neither tokenizer.json nor vocab.json: fetch it again")
    with refusals("its files cannot be read"):
        tokenizer: Any = Qwen2Tokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise Unusable("it has no chat template, in which this model reads its texts: fetch it again")
    return tokenizer


def check_tokenizer(tokenizer: Any, text_encoder: Config) -> None:
    """See `Backbone`."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= text_encoder["vocab_size"]:
        raise Unusable(f"it has tokens that the text encoder, with {text_encoder['vocab_size']} tokens, does not know")
    with refusals("it cannot read a text"):
        short, long = (len(ids([tokenizer], text, _TOKENS, {})) for text in ("a hand", "a hand " * _TOKENS))
    if not 2 < short < long == _TOKENS:
        raise Unusable("it does not cut texts into tokens: fetch it again")


def blank_ids(tokens: int) -> list[Any]:
    """See `Backbone`."""
    return [0] * tokens


def ids(tokenizers: Sequence[Any], text: str, tokens: int, settings: Config) -> list[Any]:
    """Return the ids of a text as a message to the language model, without padding."""
    (tokenizer,) = tokenizers
    messages = [{"role": "user", "content": text}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    numbers: list[Any] = tokenizer(whole, max_length=tokens, truncation=True).input_ids
    return numbers


def encode(encoders: Sequence[Any], ids: list[Any]) -> Inputs:
    """Return the language model's last but one hidden state (tokens of the text, width), and their number."""
    (encoder,) = encoders
    numbers = torch.tensor([ids], device=encoder.device)
    whole = {"full_attention": None}  # causal, and nothing is padded: torch's kernel needs no mask
    with torch.no_grad():
        state = encoder(numbers, attention_mask=whole, output_hidden_states=True).hidden_states[-2]
    return {"embedding": state[0], "length": torch.tensor(len(ids), device=encoder.device)}


def image_inputs(sizes: Sequence[tuple[int, int]], windows: Sequence[Window]) -> Inputs:
    """See `Backbone`: the transformer reads nothing else."""
    return {}


def shift(vae: Config) -> float:
    """See `Backbone`."""
    return float(vae.get("shift_factor") or 0.0)


def decodes_in_float32(vae: Config) -> bool:
    """See `Backbone`: yes, unless its configuration states that it was made for half precision."""
    return bool(vae.get("force_upcast", True))


def pipeline(parts: Mapping[str, Any], tuned: bool, settings: Config) -> Any:
    """See `Backbone`: a model without a gesture feature and poses needs no pipeline of ours."""
    make: Any = ZImagePipeline
    return make(**{**dict.fromkeys(("text_encoder", "tokenizer")), **parts})


def call(positive: Texts, negative: Texts, guidance: float, eta: float) -> dict[str, Any]:
    """See `Backbone`. This pipeline's scale counts from 0: none."""
    return {
        "prompt_embeds": _cut(positive.embedding, positive.more),
        "negative_prompt_embeds": _cut(negative.embedding, negative.more),
        "guidance_scale": guidance - 1,
    }
