"""Load the parts of a Stable Diffusion base, one at a time, from a diffusers folder; its sizes are what it says."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.huggingface import HubName, Place, pipeline_folder
from handtrain import tensor_cache
from handtrain.method.lora import add_adapters

_OURS = ("StableDiffusionPipeline", "Hand1000Pipeline")
_WEIGHTED = ("unet", "vae", "text_encoder")


@dataclass(frozen=True)
class Base:
    """A base model: its folder, its repository at a commit if it came from the Hub, and what its configuration says."""

    folder: Path
    commit: HubName | None
    latent_channels: int  # 4
    sample_size: int  # of the latent, 64 for Stable Diffusion 1
    latent_factor: int  # pixels per cell of the latent, 8
    width: int  # of a text embedding, 768
    tokens: int  # 77

    @property
    def resolution(self) -> int:
        """Side of the images that the UNet was made for, in pixels."""
        return self.sample_size * self.latent_factor

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

        return _untyped(diffusers.DDPMScheduler).from_config(_config(self.folder, "scheduler"))

    def sampling_schedule(self) -> Any:
        """Return the same schedule as a DDIMScheduler with Stable Diffusion's conventions (no clipping of latents)."""
        import diffusers

        config = {
            **_config(self.folder, "scheduler"),
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        }
        return _untyped(diffusers.DDIMScheduler).from_config(config)

    def scaling(self) -> float:
        """Return the factor between the VAE's latents and the UNet's."""
        return float(_config(self.folder, "vae").get("scaling_factor", 0.18215))

    def fingerprint(self) -> str:
        """Return a hash of the UNet's files."""
        digest = hashlib.sha256()
        for path in sorted((self.folder / "unet").glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def check_resolution(self, resolution: int) -> int:
        """Return the side of the training images; 0 means the base's. Raises `UserError` if the UNet cannot take it."""
        blocks = len(_config(self.folder, "unet")["down_block_types"])
        step = self.latent_factor * 2 ** (blocks - 1)
        if resolution % step:
            raise UserError(f"--resolution {resolution} does not suit this base: take a multiple of {step}")
        return resolution or self.resolution


def open_base(place: Place, option: str = "--base") -> Base:
    """Fetch a base model if need be, check that it is one, and read its configuration.

    Raises `UserError` if it is no Stable Diffusion 1 or 2 in diffusers' layout with safetensors.
    """
    _quiet_loading()
    folder, commit = pipeline_folder(place, option)
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{option} {place} is not a diffusers model (no model_index.json): name a diffusers folder")
    name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if name not in _OURS:
        raise UserError(f"{option} {place} is a {name}: handtrain trains a StableDiffusionPipeline (versions 1 and 2)")
    for part in _WEIGHTED:
        if not list((folder / part).glob("*.safetensors")):
            raise UserError(f"{option} {place} has no .safetensors in {part}/: pickled weights are not read")
    unet, vae, text = (_config(folder, part) for part in _WEIGHTED)
    if unet["in_channels"] != vae["latent_channels"]:
        raise UserError(
            f"{option} {place}: its UNet takes {unet['in_channels']} channels, its VAE gives {vae['latent_channels']}: "
            "handtrain trains text-to-image models"
        )
    prediction = _config(folder, "scheduler").get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(f"{option} {place} predicts '{prediction}': handtrain trains epsilon and v_prediction models")
    return Base(
        folder=folder,
        commit=commit,
        latent_channels=vae["latent_channels"],
        sample_size=unet["sample_size"],
        latent_factor=2 ** (len(vae["block_out_channels"]) - 1),
        width=text["hidden_size"],
        tokens=text["max_position_embeddings"],
    )


def unet_parameters(base: Base) -> int:
    """Return how many weights the UNet has, without loading them."""
    return sum(parameter.numel() for parameter in _empty_unet(base).parameters())


def adapter_parameters(base: Base, rank: int) -> int:
    """Return how many weights the UNet's adapters of a rank have, without making them."""
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
        return _untyped(diffusers.UNet2DConditionModel).from_config(_config(base.folder, "unet"))


def _load(model: Any, folder: Path) -> Any:
    return model.from_pretrained(folder, use_safetensors=True).float()


def _quiet_loading() -> None:
    """Switch off the bars that diffusers and transformers draw for the files of a model: they last a second."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        logging: Any = library.utils.logging
        logging.disable_progress_bar()


def _untyped(thing: Any) -> Any:
    return thing  # diffusers has no types


def _config(folder: Path, part: str) -> dict[str, Any]:
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if not file.is_file():
        raise UserError(f"--base {folder} lacks {part}/{file.name}: name a whole diffusers folder")
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config
