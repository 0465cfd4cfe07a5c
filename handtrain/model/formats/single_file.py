"""A Stable Diffusion 1, 2 or XL in one .safetensors file with the original names, read with shipped configurations."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handdata.shipped import resource
from handtrain.hashes import known_sha256
from handtrain.model.formats.clip_tokenizer import clip_tokenizer
from handtrain.model.formats.original_names import CLIP, UNET, original
from handtrain.model.weights import Piece, Stored, Unusable, Weights, read_header, read_metadata

Config = dict[str, Any]

PREDICTIONS = ("epsilon", "v_prediction")
# tensors without content by which other programs know the v-prediction of XL, and betas up to pure noise
VELOCITY, ZERO_SNR = "v_pred", "ztsnr"
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_FIRST = f"{UNET}input_blocks.0.0.weight"  # (channels, 4, 3, 3)
_XL = "conditioner.embedders."
_CROSS = ".attn2.to_k.weight"  # (channels, width of the text embedding)
# Configurations by the UNet's first channels and the width of the text embedding.
_CONFIGURATIONS = {
    (320, 768): "manifests/bases/stable-diffusion-1",
    (320, 1024): "manifests/bases/stable-diffusion-2",
    (320, 2048): "manifests/bases/stable-diffusion-xl",
    (80, 96): "models/mini-stable-diffusion",
}
_PADDINGS = {
    "stable-diffusion-1": {"tokenizer": "<|endoftext|>"},
    "stable-diffusion-2": {"tokenizer": "!"},
    "stable-diffusion-xl": {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"},
}
_V_SIDE = 96  # side of the latents of a Stable Diffusion 2 that predicts v, which was trained on 768 pixels


@dataclass(frozen=True)
class SingleFile:
    """A file whose UNet has the sizes of a known base."""

    path: Path
    folder: Path  # configurations in diffusers' layout
    tensors: dict[str, Stored]
    prediction: str | None  # prediction type of the UNet; None: that of the configuration
    xl: bool = False  # the layout of Stable Diffusion XL

    def weights(self, part: str, config: Config, names: list[str]) -> Weights:
        """Return the place of a network's weights, whose canonical names are given. Raises `Unusable` if one is new.

        Weights that the file lacks are left out. Of the UNet those that are left over stay under their own names;
        elsewhere files hold other things too, such as the last layer of OpenCLIP, which version 2 does not use.
        """
        pieces = {name: self._present(original(part, name, config, self.xl)) for name in names}
        found = {name: piece for name, piece in pieces.items() if piece.name in self.tensors}
        tensors = {}
        for name, piece in found.items():
            stored = self.tensors[piece.name]
            tensors[name] = Stored(stored.dtype, piece.shape(stored.shape))
        if part == "unet":
            used = {piece.name for piece in found.values()}
            tensors |= {name: self.tensors[name] for name in self.tensors if name.startswith(UNET) and name not in used}
        return Weights((self.path,), tensors, found)

    def adapted(self, part: str, config: Config) -> Config:
        """Return a component's shipped configuration, changed to this prediction type and noise schedule."""
        if part == "scheduler":
            config = {**config, **_ZERO_SNR} if ZERO_SNR in self.tensors else config
            return {**config, "prediction_type": self.prediction} if self.prediction else config
        if part == "unet" and self.prediction == "v_prediction" and self.folder.name == "stable-diffusion-2":
            return {**config, "sample_size": _V_SIDE}
        return config

    def tokenizers(self, tokens: int) -> dict[str, Path]:
        """Return the folders of the tokenizers by component. Raises `UserError` without CLIP's vocabulary file."""
        paddings = _PADDINGS.get(self.folder.name)
        if paddings is None:
            return {folder.name: folder for folder in self.folder.glob("tokenizer*")}
        return {part: clip_tokenizer(padding, tokens) for part, padding in paddings.items()}

    def fingerprint(self) -> str:
        """Return the sha256 of the file."""
        state = self.path.stat()
        return _hash(self.path, state.st_size, state.st_mtime_ns)

    def _present(self, piece: Piece) -> Piece:
        """Return the piece under the name that the file has: some leave out a level of the text encoder."""
        short = piece.name.replace(CLIP, CLIP.removesuffix("text_model."))
        return Piece(short) if piece.name not in self.tensors and short in self.tensors else piece


def open_single_file(path: Path, option: str, prediction: str | None) -> SingleFile:
    """Read a file's header and find the configurations of its sizes.

    `prediction` is needed where neither the file nor its sizes determine the prediction type. Raises `UserError` for
    another kind of file.
    """
    where = f"{option} {path}"
    try:
        tensors, metadata = read_header(path), read_metadata(path)
    except Unusable as error:
        raise UserError(f"{where}: {error}") from None
    _require_text_to_image(tensors, where)
    channels = tensors[_FIRST].shape[0]
    widths = {entry.shape[1] for name, entry in tensors.items() if name.startswith(UNET) and name.endswith(_CROSS)}
    name = _CONFIGURATIONS.get((channels, *sorted(widths)))  # type: ignore[arg-type]
    if name is None:
        raise UserError(
            f"{where}: its UNet begins with {channels} channels and reads texts of width "
            f"{' and '.join(map(str, sorted(widths))) or 'none'}: it is not a Stable Diffusion 1, 2 or XL"
        )
    folder = resource(name)
    stated = _stated(tensors, metadata)
    if prediction and stated and prediction != stated:
        raise UserError(f"--prediction-type {prediction}: the file {path} states {stated}: leave the option out")
    if folder.name == "stable-diffusion-2" and not (prediction or stated):
        raise UserError(
            f"{where} does not state the prediction type of its UNet: give --prediction-type v_prediction for a Stable "
            "Diffusion 2 of 768 pixels, or epsilon for one of 512 (`2-base`)"
        )
    return SingleFile(path, folder, tensors, prediction or stated, any(name.startswith(_XL) for name in tensors))


def _require_text_to_image(tensors: dict[str, Stored], where: str) -> None:
    """Raise `UserError` that names the kind of a file which is not a whole text-to-image model."""
    if any("lora_" in name for name in tensors):
        raise UserError(f"{where} is a LoRA, which changes a base model: name the base model")
    first = tensors.get(_FIRST)
    if first is None or len(first.shape) != 4:
        raise UserError(f"{where} has no {_FIRST}: it is not a whole Stable Diffusion with the original names")
    if first.shape[1] != 4:
        raise UserError(
            f"{where}: its UNet takes {first.shape[1]} channels, as for inpainting: handtrain trains text-to-image "
            "models"
        )
    if bad := next((name for name, entry in tensors.items() if name.endswith(_CROSS) and len(entry.shape) != 2), None):
        raise UserError(f"{where}: its weight {bad} is not a matrix: fetch the file again")


def _stated(tensors: dict[str, Stored], metadata: dict[str, Any]) -> str | None:
    """Return the prediction type that a file states: in its metadata (Stability's model spec), or by a tensor."""
    words = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
    stated = words.get(str(metadata.get("modelspec.prediction_type")))
    return stated or ("v_prediction" if VELOCITY in tensors else None)


@cache
def _hash(path: Path, size: int, time: int) -> str:
    """Return the sha256 of a file, which is read once in a process: training asks for it several times."""
    return known_sha256(path)
