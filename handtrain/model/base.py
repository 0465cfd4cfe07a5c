"""A Stable Diffusion base, a diffusers folder or one file: its sizes, and its components, loaded one at a time."""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.huggingface import HubName, Place, pipeline_folder
from handdata.readers import require_json
from handtrain import tensor_cache
from handtrain.hashes import known_sha256
from handtrain.method.unet import add_adapters
from handtrain.model.components import (
    CHECKER,
    NETWORKS,
    OPTIONAL,
    canonical,
    check_schedule,
    optional_network,
    read_config,
    refusals,
    require_named,
    scaling_of,
)  # fmt: skip
from handtrain.model.formats.single_file import SingleFile, open_single_file
from handtrain.model.tokenizer import (
    PROCESSOR_NAMES,
    TOKENIZER_FILES,
    TOKENIZER_NAMES,
    check_tokenizer,
    load_processor,
    load_tokenizer,
)  # fmt: skip
from handtrain.model.weights import Unusable, Weights, find_weights

_PIPELINES = ("StableDiffusionPipeline", "Hand1000Pipeline")
_LARGEST_SIDE = 8192  # pixels


@dataclass(frozen=True)
class Base:
    """A base model: its folder or file, its repository and commit if it is from the Hub, and its sizes."""

    folder: Path  # of a single file: the folder of its configurations, which we ship
    single_file: SingleFile | None
    tokenizer_folder: Path
    commit: HubName | None
    configs: dict[str, dict[str, Any]]  # of the components, by name
    weights: dict[str, Weights]  # of the networks, by name
    resolution: int  # side of the images in pixels, 512 for Stable Diffusion 1
    latent_factor: int  # pixels per cell of the latent, 8
    width: int  # of a text embedding, 768
    tokens: int  # 77
    left_out: dict[str, str]  # optional components that cannot be used, with the reason

    @property
    def path(self) -> Path:
        """The folder or file of the weights."""
        return self.single_file.path if self.single_file else self.folder

    def unet(self) -> Any:
        """Load the UNet in float32."""
        return self._load("unet")

    def vae(self) -> Any:
        """Load the VAE in float32, frozen."""
        return self._load("vae").requires_grad_(False)

    def text_encoder(self) -> Any:
        """Load the text encoder in float32, frozen."""
        return self._load("text_encoder").requires_grad_(False)

    def safety_checker(self) -> tuple[Any, Any] | None:
        """Load the safety checker in float32 and its image processor; None if the base has none that can be used."""
        if "safety_checker" not in self.configs:
            return None
        with _named(self.path, "safety_checker"):
            checker = CHECKER.load(self.configs["safety_checker"], self.weights["safety_checker"])
            side = checker.config.vision_config.image_size
            return checker, load_processor(self.folder / "feature_extractor", side)

    def tokenizer(self) -> Any:
        """Load the tokenizer."""
        with _named(self.path, "tokenizer"):
            return load_tokenizer(self.tokenizer_folder, self.tokens)

    def training_schedule(self) -> Any:
        """Return the noise schedule of the base as a DDPMScheduler."""
        import diffusers

        return _untyped(diffusers.DDPMScheduler).from_config(self.configs["scheduler"])

    def sampling_schedule(self) -> Any:
        """Return the same schedule as a DDIMScheduler with Stable Diffusion's conventions (no clipping of latents)."""
        import diffusers

        conventions = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
        return _untyped(diffusers.DDIMScheduler).from_config({**self.configs["scheduler"], **conventions})

    def scaling(self) -> float:
        """Return the factor between the VAE's latents and the UNet's."""
        return scaling_of(self.configs["vae"])

    def fingerprint(self) -> str:
        """Return a hash of the UNet's files; of a single file its sha256."""
        if self.single_file:
            return self.single_file.fingerprint()
        digest = hashlib.sha256()
        for path in sorted((self.folder / "unet").glob("*.safetensors")):
            if path.is_file():
                digest.update(bytes.fromhex(known_sha256(path)))
        return digest.hexdigest()

    def rest_fingerprint(self) -> str:
        """Return a hash of everything else that training uses: VAE, text encoder, tokenizer and all configurations."""
        parts = () if self.single_file else ("vae", "text_encoder")  # the fingerprint is that of all weights
        files = [file for part in parts for file in self.weights[part].files]
        files += [path for name in TOKENIZER_FILES if (path := self.tokenizer_folder / name).is_file()]
        configs = {name: self.configs[name] for name in (*NETWORKS, "scheduler")}
        digest = hashlib.sha256(json.dumps(configs, sort_keys=True).encode())
        for file in files:
            digest.update(f"{file.name} {known_sha256(file)}\n".encode())
        return digest.hexdigest()

    def _load(self, part: str) -> Any:
        with _named(self.path, part):
            return NETWORKS[part].load(self.configs[part], self.weights[part])

    def check_resolution(self, resolution: int) -> int:
        """Return a resolution, for 0 the base's own. Raises `UserError` if the UNet does not support it."""
        step = self.latent_factor * 2 ** (len(self.configs["unet"]["down_block_types"]) - 1)
        if resolution % step:
            raise UserError(f"--resolution {resolution} does not fit this base: use a multiple of {step}")
        return resolution or self.resolution


def open_base(place: Place, option: str = "--base", prediction_type: str | None = None) -> Base:
    """Fetch a base model if necessary, check everything that is used of it, and read its sizes.

    `place` is a diffusers folder, a repository on the Hub, or a .safetensors file with the original names, for which
    `prediction_type` may be needed. Names, shapes and types of all weights are compared with the configurations before
    any weight is loaded, and the networks are computed once without values. Optional components that cannot be used
    are left out. Raises `UserError` unless the rest is a Stable Diffusion 1 or 2 with safetensors.
    """
    _quiet_loading()
    where, single = f"{option} {place}", None
    if isinstance(place, Path) and place.is_file():
        single = open_single_file(place, option, prediction_type)
    elif prediction_type:
        raise UserError(f"--prediction-type is for a single file, and {where} is a folder that states it: leave it out")
    folder, commit = (single.folder, None) if single else pipeline_folder(place, option)
    if not (folder / "model_index.json").exists():
        raise UserError(
            f"{where} is not a diffusers model (no model_index.json): name a diffusers folder or a .safetensors file"
        )
    index = require_json(folder / "model_index.json", option)
    if (name := index.get("_class_name")) not in _PIPELINES:
        raise UserError(f"{where} is a {str(name)[:80]}: handtrain trains a StableDiffusionPipeline (versions 1 and 2)")
    configs, weights, networks = _networks(where, folder, single, index)
    left_out = _optional(folder, index, configs, weights)
    tokenizer = single.tokenizer(configs["text_encoder"]["max_position_embeddings"]) if single else folder / "tokenizer"
    base = Base(folder, single, tokenizer, commit, configs, weights, *_sizes(where, configs), left_out)
    _check_together(base, where, networks)
    with _named(where, "tokenizer"):
        require_named(index, "tokenizer", TOKENIZER_NAMES)
        check_tokenizer(load_tokenizer(tokenizer, base.tokens), configs["text_encoder"]["vocab_size"])
    return base


def _networks(
    where: str, folder: Path, single: SingleFile | None, index: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Weights], dict[str, Any]]:
    """Return configurations, weights and empty networks by component, and the configuration of the scheduler."""
    configs, weights, networks = {}, {}, {}
    for part, network in NETWORKS.items():
        with _named(where, part):
            require_named(index, part, network.names)
            configs[part] = read_config(folder / part / "config.json")
            if single:
                configs[part] = single.adapted(part, configs[part])
                names = [canonical(name) for name in network.empty(configs[part]).state_dict()]
                weights[part] = single.weights(part, configs[part], names)
            else:
                weights[part] = find_weights(folder / part, network.stem)
            networks[part] = network.check(configs[part], weights[part])
    with _named(where, "scheduler"):
        configs["scheduler"] = read_config(folder / "scheduler" / "scheduler_config.json")
        if single:
            configs["scheduler"] = single.adapted("scheduler", configs["scheduler"])
        check_schedule(configs["scheduler"])
    return configs, weights, networks


def _sizes(where: str, configs: dict[str, dict[str, Any]]) -> tuple[int, int, int, int]:
    """Return resolution, latent factor, width and tokens. Raises `UserError` for another kind of model."""
    unet, vae, text = (configs[part] for part in NETWORKS)
    if unet["in_channels"] != vae["latent_channels"]:
        raise UserError(
            f"{where}: its UNet takes {unet['in_channels']} channels, its VAE has {vae['latent_channels']}: "
            "handtrain trains text-to-image models"
        )
    factor, side = 2 ** (len(vae["block_out_channels"]) - 1), unet["sample_size"]
    if type(side) is not int or not 1 <= side * factor <= _LARGEST_SIDE:
        raise UserError(f"{where}: the sample_size {str(side)[:40]} of its UNet is not a side of square images")
    return side * factor, factor, text["hidden_size"], text["max_position_embeddings"]


def _check_together(base: Base, where: str, networks: dict[str, Any]) -> None:
    """Compute the networks on `meta`, which has shapes without values. Raises `UserError` if the sizes do not fit."""
    unet, vae, text = (networks[part] for part in NETWORKS)
    side, channels = base.resolution // base.latent_factor, base.configs["unet"]["in_channels"]
    shape = (1, channels, side, side)
    with _named(where, "vae"), refusals("it cannot be computed"), torch.no_grad(), torch.device("meta"):
        encoded = vae.encode(torch.empty(1, 3, base.resolution, base.resolution)).latent_dist.mean
        decoded = vae.decode(torch.empty(shape)).sample
        if (encoded.shape, decoded.shape) != (shape, (1, 3, base.resolution, base.resolution)):
            raise Unusable("its images have other sizes than those of the UNet")
        scaling_of(base.configs["vae"])
    with _named(where, "text_encoder"), refusals("it cannot be computed"), torch.no_grad(), torch.device("meta"):
        embedding = text(torch.zeros(1, base.tokens, dtype=torch.long))[0]  # (1, tokens, width)
    with _named(where, "unet"), refusals("it does not fit the text encoder"), torch.no_grad(), torch.device("meta"):
        if unet(torch.empty(shape), torch.zeros(1), embedding).sample.shape != shape:
            raise Unusable("its predictions have another shape than its latents")
    with _named(where, "scheduler"), refusals("it is not supported"):
        base.training_schedule()
        base.sampling_schedule().set_timesteps(2)


def _optional(
    folder: Path, index: dict[str, Any], configs: dict[str, Any], weights: dict[str, Weights]
) -> dict[str, str]:
    """Add a safety checker that can be used to the configurations and weights; return the others with the reason."""
    named = [part for part in OPTIONAL if isinstance(index.get(part), list) and any(index[part])]
    left_out = {part: "training and generation do not use it" for part in named if part == "image_encoder"}
    if "safety_checker" in named:
        try:
            require_named(index, "safety_checker", CHECKER.names)
            config, stored = optional_network(folder / "safety_checker", CHECKER)
            require_named(index, "feature_extractor", PROCESSOR_NAMES)
            load_processor(folder / "feature_extractor", config["vision_config"]["image_size"])
        except Unusable as error:
            left_out["safety_checker"] = str(error)
        else:
            configs["safety_checker"], weights["safety_checker"] = config, stored
    return left_out


def report_left_out(base: Base, safety_checker: bool) -> None:
    """Print the optional components of a base that an export leaves out because they cannot be used."""
    for part, reason in base.left_out.items():
        if safety_checker or part != "safety_checker":
            print(f"handtrain: the model is made without the {part} of its base: {reason}", file=sys.stderr)


def unet_parameters(base: Base) -> int:
    """Return the number of the UNet's weights without loading them."""
    return sum(parameter.numel() for parameter in _empty_unet(base).parameters())


def adapter_parameters(base: Base, rank: int) -> int:
    """Return the number of weights in the UNet's adapters of a rank without allocating them."""
    unet = _empty_unet(base)
    with torch.device("meta"):
        add_adapters(unet, rank, seed=0)
    return sum(parameter.numel() for name, parameter in unet.named_parameters() if "lora_" in name)


def fingerprint(module: torch.nn.Module) -> str:
    """Return a hash of a model's weights and their names."""
    return tensor_cache.digest(module.state_dict())


def _empty_unet(base: Base) -> Any:
    return NETWORKS["unet"].empty(base.configs["unet"])


def _quiet_loading() -> None:
    """Disable the progress bars of diffusers and transformers for the files of a model, which load in a second."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        logging: Any = library.utils.logging
        logging.disable_progress_bar()


def _untyped(value: Any) -> Any:
    return value  # diffusers has no types


@contextmanager
def _named(where: Any, part: str) -> Iterator[None]:
    """Convert `Unusable` to a `UserError` that names the component."""
    try:
        yield
    except Unusable as error:
        raise UserError(f"{where}, {part}: {error}") from None
