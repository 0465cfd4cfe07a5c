"""The interface of a kind of model: all that training, generation and export know of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from handtrain.data.crops import Window
from handtrain.method.prediction import Form, Inputs, Texts
from handtrain.model.components import Component, Config


@dataclass(frozen=True)
class Sizes:
    """The sizes of an opened base."""

    resolution: int  # side of the images in pixels, 512 for Stable Diffusion 1
    latent_factor: int  # pixels per cell of the latent, 8
    width: int  # of a text embedding, 768
    tokens: int  # of a text at most, 77
    step: int  # sides of images are multiples of it


class Backbone(Protocol):
    """A kind of model. Its modules are the implementations: constants and functions without state."""

    PIPELINE: str  # class in diffusers, as in model_index.json
    TUNED_PIPELINE: type | None  # ours, with the gesture in the prompt; None: a trained model needs the plain one
    SAMPLER: str  # scheduler class of exported models
    NETWORKS: dict[str, Component]  # by name in model_index.json
    TRAINED: str  # name of the network that training changes
    TOKENIZERS: dict[str, str]  # text encoder -> tokenizer
    TOKENIZER_CLASSES: tuple[tuple[str, str], ...]  # (library, class) in model_index.json, the exported one first
    SETTINGS: tuple[str, ...]  # further entries of model_index.json
    FORM: Form  # of the trained network
    FUSIONS: tuple[str, ...]  # fusion layers that mix a gesture feature into the embedding
    POSES: bool  # whether the network has places for pose layers
    FLOW: bool  # whether it is trained by flow matching, which has no signal-to-noise weights and no DDIM
    RANK: int  # of the adapters that are trained by default; 0: all weights are trained
    OPTIONAL: tuple[str, ...]  # components that an exported model lacks, or has in the case of the safety checker

    def sizes(self, configs: Mapping[str, Config]) -> Sizes:
        """Return the sizes. Raises `Unusable` for configurations of another kind of model."""

    def check_schedule(self, config: Config) -> None:
        """Raise `Unusable` for a scheduler that this kind of model is not trained with."""

    def training_schedule(self, config: Config) -> Any:
        """Return the diffusers scheduler that `prediction.noised` reads."""

    def sampling_schedule(self, config: Config) -> Any:
        """Return the diffusers scheduler that images are generated with."""

    def load_tokenizer(self, folder: Path, tokens: int) -> Any:
        """Load a tokenizer. Raises `Unusable` for missing or damaged files."""

    def check_tokenizer(self, tokenizer: Any, text_encoder: Config) -> None:
        """Raise `Unusable` unless a tokenizer is whole and fits its text encoder."""

    def blank_ids(self, tokens: int) -> list[Any]:
        """Return ids of a text without a meaning, to try the networks."""

    def ids(self, tokenizers: Sequence[Any], text: str, tokens: int, settings: Config) -> list[Any]:
        """Return the ids of a text, a value of JSON: `encode` is a function of them."""

    def encode(self, encoders: Sequence[Any], ids: list[Any]) -> Inputs:
        """Return a text's `embedding` (tokens, width), and what else the network reads of it, without a batch.

        Where texts have as many tokens as they need, their number is `length`.
        """

    def image_inputs(self, sizes: Sequence[tuple[int, int]], windows: Sequence[Window]) -> Inputs:
        """Return the network's inputs from images besides latents: of their widths and heights, and their squares."""

    def shift(self, vae: Config) -> float:
        """Return the number that is subtracted from the VAE's latents before they are scaled."""

    def decodes_in_float32(self, vae: Config) -> bool:
        """Return whether the VAE stays in float32 while the other networks compute in 16 bits."""

    def pipeline(self, parts: Mapping[str, Any], tuned: bool, settings: Config) -> Any:
        """Return a diffusers pipeline, or for `tuned` ours, of the parts; a part that is not given is None."""

    def call(self, positive: Texts, negative: Texts, guidance: float, eta: float) -> dict[str, Any]:
        """Return the arguments of a pipeline's call for texts (n rows each) and a scale of guidance (1: none)."""
