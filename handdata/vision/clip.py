"""CLIP as a function of images and of texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from handdata.errors import UserError
from handdata.huggingface import model_folder
from handdata.machine import choose_device


class Clip:
    """A CLIP model on its device."""

    def __init__(self, model: str, device: str = "auto", option: str = "--clip") -> None:
        """Load a model by its name on the Hub, with or without `hf:`, or from a folder.

        Raises `UserError` or `Unfinished` if its files or the libraries are missing.
        """
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError:
            raise UserError("CLIP needs torch and transformers: pip install 'hand1000[data]'") from None
        self.device = choose_device(device)
        folder, _ = model_folder(model, "main", option)
        try:
            network: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
            self._processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{option} {model} cannot be loaded: {str(error).splitlines()[0]}") from None
        self.network = network.requires_grad_(False).to(self.device).eval()
        self.width: int = self.network.config.projection_dim

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the projected features (n, width) of RGB images (h, w, 3) of uint8, in float32."""
        pixels = [np.array(_middle(image)) for image in images]  # copies: torch warns of arrays that cannot be written
        inputs = self._processor.image_processor(pixels, return_tensors="pt", input_data_format="channels_last")
        inputs = inputs.to(self.device)
        return _array(self.network.get_image_features(**inputs))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the projected features (n, width) of texts, cut off at 77 tokens, in float32."""
        inputs = self._processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return _array(self.network.get_text_features(**inputs.to(self.device)))


def _middle(image: np.ndarray) -> np.ndarray:
    """Return the middle of an image of an extreme shape: resized as a whole, 1 x 60,000 pixels need gigabytes.

    The processor resizes the short side and keeps the square in the center.
    """
    short = min(image.shape[:2])
    if max(image.shape[:2]) <= 16 * short:
        return image
    top, left = ((side - min(side, 8 * short)) // 2 for side in image.shape[:2])
    return image[top : top + 8 * short, left : left + 8 * short]


def _array(output: Any) -> np.ndarray:
    features = getattr(output, "pooler_output", output)  # newer transformers wrap the features
    return np.asarray(features.float().cpu().numpy())
