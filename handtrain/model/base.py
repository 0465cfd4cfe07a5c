"""A base model, a diffusers folder or one file: its sizes, and its components, loaded one at a time."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.huggingface import HubName, Place, pipeline_folder
from handdata.readers import require_json
from handtrain.data.crops import window
from handtrain.hashes import known_sha256
from handtrain.model.backbones import stable_diffusion, stable_diffusion_xl, z_image
from handtrain.model.backbones.interface import Backbone, Sizes
from handtrain.model.components import (
    CHECKER,
    OPTIONAL,
    canonical,
    optional_network,
    read_config,
    refusals,
    require_named,
    scaling_of,
)  # fmt: skip
from handtrain.model.formats.single_file import SingleFile, open_single_file
from handtrain.model.tokenizer import PROCESSOR_NAMES, TOKENIZER_FILES, load_processor
from handtrain.model.weights import Unusable, Weights, find_weights

# by the class in model_index.json
BACKBONES: dict[str, Backbone] = {
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "ZImagePipeline": z_image,
    "Hand1000Pipeline": stable_diffusion,
    "Hand1000XLPipeline": stable_diffusion_xl,
}
_KINDS = ("a StableDiffusionPipeline (versions 1 and 2)", "a StableDiffusionXLPipeline", "a ZImagePipeline")


@dataclass(frozen=True)
class Base:
    """A base model: its kind, its folder or file, its repository and commit if it is from the Hub, and its sizes."""

    backbone: Backbone
    folder: Path  # of a single file: the folder of its configurations, which we ship
    single_file: SingleFile | None
    tokenizer_folders: dict[str, Path]  # by component
    commit: HubName | None
    settings: dict[str, Any]  # further entries of model_index.json
    configs: dict[str, dict[str, Any]]  # of the components, by name
    weights: dict[str, Weights]  # of the networks, by name
    sizes: Sizes
    resolution: int  # side of the images in pixels, by default that of `sizes`
    left_out: dict[str, str]  # optional components that cannot be used, with the reason

    @property
    def path(self) -> Path:
        """The folder or file of the weights."""
        return self.single_file.path if self.single_file else self.folder

    @property
    def latent_side(self) -> int:
        """The side of a latent in cells."""
        return self.resolution // self.sizes.latent_factor

    def network(self, part: str) -> Any:
        """Load a network in float32."""
        with _named(self.path, part):
            return self.backbone.NETWORKS[part].load(self.configs[part], self.weights[part])

    def denoiser(self) -> Any:
        """Load the network that training changes, in float32."""
        return self.network(self.backbone.TRAINED)

    def vae(self) -> Any:
        """Load the VAE in float32, frozen."""
        return self.network("vae").requires_grad_(False)

    def text_encoders(self, device: torch.device | None = None) -> list[Any]:
        """Load the text encoders in float32, frozen."""
        return [self.network(part).requires_grad_(False).to(device) for part in self.backbone.TOKENIZERS]

    def tokenizers(self) -> list[Any]:
        """Load the tokenizers of the text encoders."""
        return [self.tokenizer(part) for part in self.backbone.TOKENIZERS.values()]

    def tokenizer(self, part: str = "tokenizer") -> Any:
        """Load a tokenizer."""
        with _named(self.path, part):
            return self.backbone.load_tokenizer(self.tokenizer_folders[part], self.sizes.tokens)

    def safety_checker(self) -> tuple[Any, Any] | None:
        """Load the safety checker in float32 and its image processor; None if the base has none that can be used."""
        if "safety_checker" not in self.configs:
            return None
        with _named(self.path, "safety_checker"):
            checker = CHECKER.load(self.configs["safety_checker"], self.weights["safety_checker"])
            side = checker.config.vision_config.image_size
            return checker, load_processor(self.folder / "feature_extractor", side)

    def training_schedule(self) -> Any:
        """Return the schedule of training."""
        return self.backbone.training_schedule(self.configs["scheduler"])

    def sampling_schedule(self) -> Any:
        """Return the schedule of generation."""
        return self.backbone.sampling_schedule(self.configs["scheduler"])

    def pipeline(self, parts: Mapping[str, Any], tuned: bool = False) -> Any:
        """Return a diffusers pipeline, or for `tuned` ours, of parts by name, with the schedule of generation."""
        schedule = self.sampling_schedule()
        pipeline = self.backbone.pipeline({"scheduler": schedule, **parts}, tuned, self.settings)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def scaling(self) -> float:
        """Return the factor between the VAE's latents and the denoiser's."""
        return scaling_of(self.configs["vae"])

    def shift(self) -> float:
        """Return the number that is subtracted from the VAE's latents before they are scaled."""
        return self.backbone.shift(self.configs["vae"])

    def fingerprint(self) -> str:
        """Return a hash of the denoiser's files; of a single file its sha256."""
        if self.single_file:
            return self.single_file.fingerprint()
        digest = hashlib.sha256()
        for path in sorted((self.folder / self.backbone.TRAINED).glob("*.safetensors")):
            if path.is_file():
                digest.update(bytes.fromhex(known_sha256(path)))
        return digest.hexdigest()

    def rest_fingerprint(self) -> str:
        """Return a hash of everything else that training uses: VAE, text encoders, tokenizers, all configurations."""
        networks = self.backbone.NETWORKS
        others = [part for part in networks if part != self.backbone.TRAINED]
        parts = () if self.single_file else others  # the fingerprint is that of all weights
        files = [file for part in parts for file in self.weights[part].files]
        folders = self.tokenizer_folders.values()
        files += [path for folder in folders for name in TOKENIZER_FILES if (path := folder / name).is_file()]
        configs = {name: self.configs[name] for name in (*networks, "scheduler")}
        if self.settings:
            configs["settings"] = self.settings
        digest = hashlib.sha256(json.dumps(configs, sort_keys=True).encode())
        for file in files:
            digest.update(f"{file.name} {known_sha256(file)}\n".encode())
        return digest.hexdigest()

    def check_resolution(self, resolution: int) -> int:
        """Return a resolution, for 0 the base's own. Raises `UserError` if the network does not support it."""
        if resolution % self.sizes.step:
            raise UserError(f"--resolution {resolution} does not fit this base: use a multiple of {self.sizes.step}")
        return resolution or self.sizes.resolution


def open_base(place: Place, option: str = "--base", prediction_type: str | None = None) -> Base:
    """Fetch a base model if necessary, check everything that is used of it, and read its sizes.

    `place` is a diffusers folder, a repository on the Hub, or a .safetensors file with the original names, for which
    `prediction_type` may be needed. Names, shapes and types of all weights are compared with the configurations before
    any weight is loaded, and the networks are computed once without values. Optional components that cannot be used
    are left out. Raises `UserError` unless the rest is a model of a kind in `BACKBONES` with safetensors.
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
    backbone = _backbone(index, where)
    settings = {key: index[key] for key in backbone.SETTINGS if key in index}
    configs, weights, networks = _networks(where, backbone, folder, single, index)
    left_out = _optional(folder, index, configs, weights) if "safety_checker" in backbone.OPTIONAL else {}
    try:
        sizes = backbone.sizes(configs)
    except Unusable as error:
        raise UserError(f"{where}: {error}") from None
    tokenizers = single.tokenizers(sizes.tokens) if single else \
        {part: folder / part for part in backbone.TOKENIZERS.values()}  # fmt: skip
    base = Base(
        backbone, folder, single, tokenizers, commit, settings, configs, weights, sizes, sizes.resolution, left_out
    )
    _check_together(base, where, networks)
    for encoder, part in backbone.TOKENIZERS.items():
        with _named(where, part):
            require_named(index, part, backbone.TOKENIZER_CLASSES)
            backbone.check_tokenizer(backbone.load_tokenizer(tokenizers[part], sizes.tokens), configs[encoder])
    return base


def _backbone(index: dict[str, Any], where: str) -> Backbone:
    """Return the kind of a model. Raises `UserError` for one that is not trained."""
    name = str(index.get("_class_name"))
    if index.get("requires_aesthetics_score"):
        raise UserError(
            f"{where} is the refiner of Stable Diffusion XL, which changes finished images: name the base model"
        )
    if name not in BACKBONES:
        raise UserError(f"{where} is a {name[:80]}: handtrain trains {', '.join(_KINDS)}")
    return BACKBONES[name]


def _networks(
    where: str, backbone: Backbone, folder: Path, single: SingleFile | None, index: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Weights], dict[str, Any]]:
    """Return configurations, weights and empty networks by component, and the configuration of the scheduler."""
    configs, weights, networks = {}, {}, {}
    for part, network in backbone.NETWORKS.items():
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
        backbone.check_schedule(configs["scheduler"])
    return configs, weights, networks


def _check_together(base: Base, where: str, networks: dict[str, Any]) -> None:
    """Compute the networks on `meta`, which has shapes without values. Raises `UserError` if the sizes do not fit."""
    backbone, vae, side = base.backbone, networks["vae"], base.sizes.resolution
    shape = (1, base.configs["vae"]["latent_channels"], base.latent_side, base.latent_side)
    with _named(where, "vae"), refusals("it cannot be computed"), torch.no_grad(), torch.device("meta"):
        encoded = vae.encode(torch.empty(1, 3, side, side)).latent_dist.mean
        decoded = vae.decode(torch.empty(shape)).sample
        if (encoded.shape, decoded.shape) != (shape, (1, 3, side, side)):
            raise Unusable("its images have other sizes than those of the UNet")
        scaling_of(base.configs["vae"])
    encoders = [networks[part] for part in backbone.TOKENIZERS]
    with _named(where, "text_encoder"), refusals("it cannot be computed"), torch.no_grad(), torch.device("meta"):
        encoded_text = backbone.encode(encoders, backbone.blank_ids(base.sizes.tokens))
    with _named(where, backbone.TRAINED), refusals("it does not fit the text encoder"), torch.no_grad(), \
            torch.device("meta"):  # fmt: skip
        inputs = {name: tensor[None] for name, tensor in encoded_text.items()}
        of_image = backbone.image_inputs([(side, side)], [window(side, side, side)])
        inputs |= {name: tensor.to("meta") for name, tensor in of_image.items()}
        text = inputs.pop("embedding")
        arguments, named = backbone.FORM.arguments(torch.empty(shape), torch.zeros(1), text, inputs)
        if backbone.FORM.prediction(networks[backbone.TRAINED](*arguments, **named)).shape != shape:
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


def empty_denoiser(base: Base) -> Any:
    """Return the denoiser on `meta`, which has shapes without values."""
    return base.backbone.NETWORKS[base.backbone.TRAINED].empty(base.configs[base.backbone.TRAINED])


def _quiet_loading() -> None:
    """Disable the progress bars of diffusers and transformers for the files of a model, which load in a second."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        logging: Any = library.utils.logging
        logging.disable_progress_bar()


@contextmanager
def _named(where: Any, part: str) -> Iterator[None]:
    """Convert `Unusable` to a `UserError` that names the component."""
    try:
        yield
    except Unusable as error:
        raise UserError(f"{where}, {part}: {error}") from None
