"""A Stable Diffusion base in a diffusers folder: its sizes, and its components, which are loaded one at a time."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.files import sha256_of
from handdata.huggingface import HubName, Place, pipeline_folder
from handdata.readers import read_json
from handtrain import tensor_cache
from handtrain.method.unet import add_adapters

_PIPELINES = ("StableDiffusionPipeline", "Hand1000Pipeline")
_WEIGHTED = ("unet", "vae", "text_encoder")


@dataclass(frozen=True)
class Base:
    """A base model: its folder, its repository and commit if it is from the Hub, and its sizes."""

    folder: Path
    commit: HubName | None
    configs: dict[str, dict[str, Any]]  # of the components, by name
    resolution: int  # side of the images in pixels, 512 for Stable Diffusion 1
    latent_factor: int  # pixels per cell of the latent, 8
    width: int  # of a text embedding, 768
    tokens: int  # 77

    def unet(self) -> Any:
        """Load the UNet in float32."""
        import diffusers

        return _load(diffusers.UNet2DConditionModel, self.folder / "unet")

    def vae(self) -> Any:
        """Load the VAE in float32, frozen."""
        import diffusers

        return _load(diffusers.AutoencoderKL, self.folder / "vae").requires_grad_(False).eval()

    def text_encoder(self) -> Any:
        """Load the text encoder in float32, frozen."""
        import transformers

        return _load(transformers.CLIPTextModel, self.folder / "text_encoder").requires_grad_(False).eval()

    def tokenizer(self) -> Any:
        """Load the tokenizer."""
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.folder / "tokenizer")

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
        return float(self.configs["vae"].get("scaling_factor", 0.18215))

    def fingerprint(self) -> str:
        """Return a hash of the UNet's files."""
        digest = hashlib.sha256()
        for path in sorted((self.folder / "unet").glob("*.safetensors")):
            digest.update(bytes.fromhex(sha256_of(path)))
        return digest.hexdigest()

    def check_resolution(self, resolution: int) -> int:
        """Return a resolution, for 0 the base's own. Raises `UserError` if the UNet does not support it."""
        step = self.latent_factor * 2 ** (len(self.configs["unet"]["down_block_types"]) - 1)
        if resolution % step:
            raise UserError(f"--resolution {resolution} does not fit this base: use a multiple of {step}")
        return resolution or self.resolution


def open_base(place: Place, option: str = "--base") -> Base:
    """Fetch a base model if necessary, check it, and read its sizes.

    Raises `UserError` unless it is a Stable Diffusion 1 or 2 in diffusers' layout with safetensors.
    """
    _quiet_loading()
    folder, commit = pipeline_folder(place, option)
    index = read_json(folder / "model_index.json")
    if index is None:
        raise UserError(f"{option} {place} is not a diffusers model (no model_index.json): name a diffusers folder")
    name = index.get("_class_name")
    if name not in _PIPELINES:
        raise UserError(f"{option} {place} is a {name}: handtrain trains a StableDiffusionPipeline (versions 1 and 2)")
    for part in _WEIGHTED:
        if not list((folder / part).glob("*.safetensors")):
            raise UserError(f"{option} {place} has no .safetensors in {part}/: pickled weights are not read")
    configs = {part: _config(folder, part, option) for part in (*_WEIGHTED, "scheduler")}
    unet, vae, text = (configs[part] for part in _WEIGHTED)
    if unet["in_channels"] != vae["latent_channels"]:
        raise UserError(
            f"{option} {place}: its UNet takes {unet['in_channels']} channels, its VAE has {vae['latent_channels']}: "
            "handtrain trains text-to-image models"
        )
    prediction = configs["scheduler"].get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(f"{option} {place} predicts '{prediction}': handtrain trains epsilon and v_prediction models")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    width, tokens = text["hidden_size"], text["max_position_embeddings"]
    return Base(folder, commit, configs, unet["sample_size"] * factor, factor, width, tokens)


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
    import diffusers

    with torch.device("meta"):
        return _untyped(diffusers.UNet2DConditionModel).from_config(base.configs["unet"])


def _load(model: Any, folder: Path) -> Any:
    return model.from_pretrained(folder, use_safetensors=True).float()


def _quiet_loading() -> None:
    """Disable the progress bars of diffusers and transformers for the files of a model, which load in a second."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        logging: Any = library.utils.logging
        logging.disable_progress_bar()


def _untyped(value: Any) -> Any:
    return value  # diffusers has no types


def _config(folder: Path, part: str, option: str) -> dict[str, Any]:
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    config: dict[str, Any] | None = read_json(file)
    if config is None:
        raise UserError(f"{option} {folder} lacks {part}/{file.name}: name a whole diffusers folder")
    return config
