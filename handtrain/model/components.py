"""The networks of a base model: made from their configurations without weights, checked, and loaded in float32."""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.errors import Unfinished, UserError
from handdata.readers import require_json
from handtrain.model.weights import Unusable, Weights, check_fit, fill, find_weights

Config = dict[str, Any]

_DEFAULT_SCALING = 0.18215  # of the first Stable Diffusion, whose VAE does not state it
_LARGEST = 2**20  # of a number in a configuration
_MOST_LAYERS = 96
_SCHEDULE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
_BLOCKS = ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block")
# Everything else that diffusers, transformers and tokenizers raise in `refusals` is their refusal of a value.
_NOT_THEIRS = (Unusable, UserError, Unfinished, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit)


@dataclass(frozen=True)
class Component:
    """A network of the pipeline: how it is named in model_index.json, made and stored."""

    make: Callable[[Config], Any]
    names: tuple[tuple[str, str], ...]  # (library, class) in model_index.json
    required: tuple[str, ...]  # keys of its config.json without a safe default
    stem: str = "diffusion_pytorch_model"  # of the files with its weights
    ignored: str = "$."  # pattern of weights that may be left over

    def empty(self, config: Config) -> Any:
        """Return the network on the device `meta`. Raises `Unusable` if its configuration is not supported."""
        _check_keys(config, self.required)
        with refusals("its config.json is not supported"), torch.device("meta"):
            return self.make(config)

    def check(self, config: Config, weights: Weights) -> Any:
        """Return the empty network after comparing it with its weights. Raises `Unusable` if they differ."""
        network = self.empty(config)
        check_fit(network, weights, canonical, self.ignored)
        return network

    def load(self, config: Config, weights: Weights) -> Any:
        """Return the network with its weights in float32. Raises `Unusable` for weights that are not finite."""
        from accelerate import init_empty_weights

        with init_empty_weights(include_buffers=False):
            network = self.make(config)
        fill(network, weights, canonical)
        return network.eval()


def canonical(name: str) -> str:
    """Return the present name of a weight: diffusers and transformers have renamed some."""
    name = name.removeprefix("text_model.").replace("vision_model.vision_model.", "vision_model.")
    if name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):  # of a language model
        name = name.removeprefix("model.")
    if "attentions." in name:  # of the VAE
        for old, new in ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v.")):
            name = name.replace(old, new)
        name = name.replace(".proj_attn.", ".to_out.0.")
    return name


def read_config(file: Path) -> Config:
    """Return a component's JSON file. Raises `Unusable` if it is missing, damaged or not an object."""
    try:
        config: Config = require_json(file)
    except UserError as error:
        if not file.exists():
            raise Unusable(f"it has no {file.name}: name a whole diffusers folder") from None
        raise Unusable(f"its file {str(error).replace(str(file), file.name)}") from None
    return config


def optional_network(folder: Path, component: Component) -> tuple[Config, Weights]:
    """Return configuration and weights of a component that fit each other. Raises `Unusable` otherwise.

    The values are read too: the component is first needed after training.
    """
    config, weights = read_config(folder / "config.json"), find_weights(folder, component.stem)
    component.check(config, weights)
    weights.load(canonical)
    return config, weights


def check_schedule(config: Config) -> None:
    """Raise `Unusable` for a scheduler whose noise schedule is not that of a Stable Diffusion 1 or 2."""
    import diffusers

    kind = config.get("_class_name", "DDPMScheduler")
    known = [kind] if isinstance(kind, str) and kind.endswith("Scheduler") and "Flow" not in kind else []
    if not any(hasattr(diffusers, name) for name in known):
        raise Unusable(f"it is a {str(kind)[:80]}: handtrain reads the schedules of DDIM, DDPM, PNDM and their kin")
    _check_keys(config, _SCHEDULE)
    first, last, steps = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    numbers = all(isinstance(beta, float) for beta in (first, last)) and type(steps) is int
    if not numbers or not 0 < first <= last < 1 or not 1 <= steps <= 100_000:
        raise Unusable("its betas or num_train_timesteps are not those of a noise schedule")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise Unusable(f"it predicts '{prediction}': handtrain trains epsilon and v_prediction models")


def scaling_of(vae: Config) -> float:
    """Return the factor between the VAE's latents and the UNet's. Raises `Unusable` if it is not above 0."""
    value = vae.get("scaling_factor", _DEFAULT_SCALING)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1000:
        raise Unusable(f"its scaling_factor is {str(value)[:40]}: it must be a number above 0")
    return float(value)


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Convert the errors of the libraries for unsupported values to `Unusable`, whose message begins with `what`.

    They check by raising whatever the first impossible value leads to; tokenizers raises plain exceptions and panics,
    which derive from `BaseException` alone.
    """
    try:
        yield
    except _NOT_THEIRS:
        raise
    except BaseException as error:  # noqa: BLE001 - see above
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unusable(f"{what} ({reason[:200]})") from None


def known(config: Config, kind: type) -> Config:
    """Return the entries of a configuration that a class's constructor has, after checking their sizes.

    Raises `Unusable` for a value that no network of this kind can have.
    """
    names = inspect.signature(kind).parameters
    chosen = {name: value for name, value in config.items() if name in names and name not in _OF_LIBRARY}
    for name, value in chosen.items():
        _check_size(name, value)
    return chosen


_OF_LIBRARY = {"dtype", "architectures", "transformers_version", "id2label", "label2id", "problem_type", "return_dict"}


def _check_size(name: str, value: Any, depth: int = 0) -> None:
    most = _MOST_LAYERS if "layers" in name else _LARGEST
    if isinstance(value, str):
        fits = len(value) <= 200
    elif isinstance(value, int | float):
        fits = math.isfinite(value) if isinstance(value, float) else abs(value) <= most
    elif isinstance(value, list):
        fits = len(value) <= 64 and depth < 4
        for each in value[:64] if fits else ():
            _check_size(name, each, depth + 1)
    else:
        fits = value is None
    if not fits:
        raise Unusable(f"its config.json has an impossible value for {name}")


def _check_keys(config: Config, required: tuple[str, ...]) -> None:
    for name in required:
        if config.get(name) is None:
            raise Unusable(f"its configuration lacks {name}: fetch the file again")


def _unet(config: Config) -> Any:
    import diffusers

    make: Any = diffusers.UNet2DConditionModel
    return make(**known(config, make))


def _vae(config: Config) -> Any:
    import diffusers

    make: Any = diffusers.AutoencoderKL
    return make(**known(config, make))


def _text_encoder(config: Config) -> Any:
    import transformers

    make: Any = transformers.CLIPTextConfig
    return transformers.CLIPTextModel(make(**known(config, make)))


def _projected_text_encoder(config: Config) -> Any:
    import transformers

    make: Any = transformers.CLIPTextConfig
    return transformers.CLIPTextModelWithProjection(make(**known(config, make)))


def _safety_checker(config: Config) -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

    kinds: dict[str, Any] = {"text_config": CLIPTextConfig, "vision_config": CLIPVisionConfig}
    parts = {name: known(config[name], kind) for name, kind in kinds.items() if isinstance(config.get(name), dict)}
    whole = {"projection_dim": config["projection_dim"]}
    _check_size("projection_dim", config["projection_dim"])
    make: Any = StableDiffusionSafetyChecker
    describe: Any = CLIPConfig
    return make(describe(**parts, **whole))


UNET = Component(
    _unet,
    (("diffusers", "UNet2DConditionModel"),),
    ("sample_size", "in_channels", "out_channels", "cross_attention_dim", "attention_head_dim", *_BLOCKS),
)
VAE = Component(_vae, (("diffusers", "AutoencoderKL"),), ("in_channels", "out_channels", "latent_channels", *_BLOCKS))
CLIP_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
    "vocab_size",
)  # fmt: skip
CLIP_TEXT = Component(
    _text_encoder,
    (("transformers", "CLIPTextModel"),),
    CLIP_SIZES,
    "model",
    "vision_model|visual_projection|text_projection|logit_scale",  # of a whole CLIP
)
CLIP_TEXT_PROJECTED = Component(
    _projected_text_encoder,
    (("transformers", "CLIPTextModelWithProjection"),),
    (*CLIP_SIZES, "projection_dim"),
    "model",
    "vision_model|visual_projection|logit_scale",  # of a whole CLIP
)
CHECKER = Component(
    _safety_checker,
    (("stable_diffusion", "StableDiffusionSafetyChecker"),),
    ("vision_config", "projection_dim"),
    "model",
    "text_model|text_projection|logit_scale|embeddings|encoder|final_layer_norm",
)


OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")  # components that a pipeline works without


def require_named(index: Config, part: str, names: tuple[tuple[str, str], ...]) -> None:
    """Raise `Unusable` unless model_index.json names one of these classes (as library and class) for a component."""
    entry = index.get(part)
    words = [str(word) for word in entry] if isinstance(entry, list) else []
    if tuple(words) not in names:
        found = " of ".join(re.sub(r"\W+", " ", word)[:60] for word in reversed(words)) or "nothing"
        raise Unusable(f"model_index.json names {found} for it: handtrain reads {names[0][1]} of {names[0][0]}")
