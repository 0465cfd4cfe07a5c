"""The frozen networks whose features the distances compare: image in, vector out.

All weights are read from local files without running foreign code: safetensors, or PyTorch files with tensors alone.
"""

import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from handdata.errors import UserError, first_line
from handdata.files import sha256_of
from handdata.huggingface import model_folder
from handdata.vision.clip import Clip
from handtrain.model.formats.pickled import read_pickled
from handtrain.tensor_cache import fingerprint

BATCH = 16  # images per forward pass; changes the features by rounding only
INCEPTION = 2048
DINOV2_SIDE, CMMD_SIDE = 224, 336  # pixels that the networks see

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, of CLIP's training images


@dataclass(frozen=True)
class Network:
    """A frozen network that turns an image into a vector, and the sha256 of its weights."""

    name: str
    sha256: str
    width: int
    run: Callable[[list[np.ndarray]], np.ndarray]  # images of one size to (n, width)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return features (n, width) float32 of images (height, width, 3) of uint8; sizes may differ."""
        features = np.empty((len(images), self.width), dtype=np.float32)
        sizes: dict[tuple[int, ...], list[int]] = {}
        for index, pixels in enumerate(images):
            sizes.setdefault(pixels.shape, []).append(index)
        for numbers in sizes.values():
            for start in range(0, len(numbers), BATCH):
                batch = numbers[start : start + BATCH]
                features[batch] = self.run([images[index] for index in batch])
        return features


def inception_fid(weights: Path, device: torch.device) -> Network:
    """Load torch-fidelity's Inception (`inception-v3-compat`, with TensorFlow's resizing and weights).

    Raises `UserError` for a file that cannot be read safely; so does `inception_torchvision`.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = _weights(weights)
    # torch-fidelity unpickles its file unsafely, so it reads a copy that was written here
    with tempfile.NamedTemporaryFile(suffix=".pth") as copy:
        torch.save(state, copy.name)
        network = FeatureExtractorInceptionV3("ours", [str(INCEPTION)], copy.name).to(device)

    def run(images: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(network(_stacked(images).to(device))[0].cpu().numpy())  # (n, 2048)

    return Network("inception-fid", sha256_of(weights), INCEPTION, run)


def inception_torchvision(weights: Path, device: torch.device) -> Network:
    """Load torchvision's Inception v3 as the released code uses it: transform_input on, fc removed."""
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, transform_input=True, aux_logits=True, init_weights=False)
    network.load_state_dict(_weights(weights))
    network.fc = torch.nn.Identity()
    network.requires_grad_(False).to(device).train(False)
    mean, deviation = (torch.tensor(x).reshape(3, 1, 1) for x in _IMAGENET)

    def run(images: list[np.ndarray]) -> np.ndarray:
        pixels = (_stacked(images).float() / 255 - mean) / deviation  # (n, 3, 299, 299)
        with torch.no_grad():
            return np.asarray(network(pixels.to(device)).cpu().numpy())  # (n, 2048)

    return Network("inception-torchvision", sha256_of(weights), INCEPTION, run)


def clip_images(clip: Clip) -> Network:
    """Return the image encoder of a CLIP model as a network."""
    return Network("clip", fingerprint(clip.network), clip.width, clip.images)


def dinov2(model: str, device: torch.device) -> Network:
    """Load DINOv2 from a folder or the Hub for FD-DINOv2; features are the normalised class token, (n, width).

    The middle square is resized to 224 px (Pillow, bicubic, antialiased) and normalised with ImageNet's mean, as in
    dgm-eval (Stein et al. 2023, "Exposing flaws of generative model evaluation metrics", models/dinov2.py), which
    resizes images of other shapes without the crop. Raises `UserError` or `Unfinished` if the model cannot be loaded.
    """
    network = _pretrained("Dinov2Model", model, device, "--dinov2")
    _use_published_positions(network)

    def run(images: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            output = network(pixel_values=_squares(images, DINOV2_SIDE, *_IMAGENET).to(device))
        return np.asarray(output.pooler_output.float().cpu().numpy())  # (n, width)

    return Network("dinov2", fingerprint(network), network.config.hidden_size, run)


def cmmd_clip(model: str, device: torch.device) -> Network:
    """Load the image encoder of CLIP from a folder or the Hub for CMMD; features (n, width) of length 1.

    The middle square is resized to 336 px (Pillow, bicubic, antialiased), as in the released code (Jayasumana et al.
    2024, "Rethinking FID", google-research/cmmd: io_util.py, embedding.py). Raises as `dinov2` does.
    """
    network = _pretrained("CLIPVisionModelWithProjection", model, device, "--cmmd")
    side = network.config.image_size
    if side != CMMD_SIDE:
        raise UserError(f"--cmmd {model} takes images of {side} px: CMMD is defined with ViT-L/14 at {CMMD_SIDE} px")

    def run(images: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            output = network(pixel_values=_squares(images, CMMD_SIDE, *_CLIP).to(device))
        embeddings = torch.nn.functional.normalize(output.image_embeds.float(), dim=1)
        return np.asarray(embeddings.cpu().numpy())  # (n, width)

    return Network("cmmd", fingerprint(network), network.config.projection_dim, run)


def _pretrained(kind: str, model: str, device: torch.device, option: str) -> Any:
    """Return a frozen model of a class of transformers, all of whose weights are in its files."""
    try:
        import transformers
        from safetensors import SafetensorError
    except ImportError:
        raise UserError(f"{option} needs transformers: pip install 'hand1000[train]'") from None
    folder, _ = model_folder(model, "main", option)
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()  # no table of the text half's weights, which stay unused
    logging.disable_progress_bar()
    try:
        network, about = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(f"{option} {model} cannot be loaded: {first_line(error)}") from None
    # transformers fills missing weights with random numbers; the mask token is for training alone
    missing = [name for name in about["missing_keys"] if not name.endswith("mask_token")]
    if missing:
        raise UserError(f"{option} {model} is not a {kind}: it lacks {len(missing)} weights, such as {missing[0]}")
    return network.requires_grad_(False).to(device).eval()


def _use_published_positions(network: Any) -> None:
    """Resize the position embeddings to the grid of 224 px as DINOv2's own code does, once.

    That code adds 0.1 to the number of patches (dinov2/models/vision_transformer.py, interpolate_pos_encoding);
    transformers' class does not, which moves every feature a little.
    """
    embeddings = network.embeddings
    grid = DINOV2_SIDE // network.config.patch_size
    position = embeddings.position_embeddings.data  # (1, 1 + side * side, width)
    side = round((position.shape[1] - 1) ** 0.5)
    if side == grid:
        return
    patches = position[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, width, side, side)
    scale = (grid + 0.1) / side
    resized = torch.nn.functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    flat = resized.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
    embeddings.position_embeddings = torch.nn.Parameter(torch.cat([position[:, :1], flat], dim=1), requires_grad=False)


def _weights(file: Path) -> dict[str, torch.Tensor]:
    try:
        state: dict[str, torch.Tensor] = read_pickled(file)
    except ValueError as error:
        raise UserError(f"{file} does not hold weights that can be read safely: {error}") from None
    return state


def _stacked(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()  # (n, 3, h, w)


def _squares(
    images: list[np.ndarray], side: int, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> torch.Tensor:
    """Return the middle squares of images (h, w, 3) of uint8, resized and normalised, (n, 3, side, side)."""
    resized = [np.asarray(_middle_square(pixels).resize((side, side), Image.Resampling.BICUBIC)) for pixels in images]
    pixels = _stacked(resized).float() / 255
    return (pixels - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(deviation).reshape(3, 1, 1)


def _middle_square(pixels: np.ndarray) -> Image.Image:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return Image.fromarray(pixels[top : top + side, left : left + side])
