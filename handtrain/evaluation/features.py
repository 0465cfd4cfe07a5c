"""What networks make of a set of images: Inception and CLIP features, hands. Computed shard by shard, kept by content.

Everything found in an image is a row: one of an image's features, one of each of its crops, one of each of its hands.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from handdata.clip import Clip
from handdata.errors import UserError
from handdata.files import sha256_of
from handdata.landmarks import HandFinder
from handtrain.evaluation import hands
from handtrain.evaluation.hands import Hand
from handtrain.evaluation.image_sets import ImageSet, Preparation
from handtrain.model.base import fingerprint
from handtrain.tensor_cache import TensorCache, key_of

SHARD = 128  # images whose features are computed and kept together
BATCH = 16  # images in one pass of a network; changes nothing but rounding
INCEPTION = 2048

HAND = 21 * 3 + 2 + 2  # landmarks, left, score, width, height
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


@dataclass(frozen=True)
class Rows:
    """What was found in a set of images."""

    values: np.ndarray  # (k, d) float32
    owner: np.ndarray  # (k,) the number of the image that each row belongs to
    images: int

    def counts(self) -> np.ndarray:
        """Return how many rows each image has, (images,)."""
        return np.bincount(self.owner, minlength=self.images)

    def sums(self, column: np.ndarray) -> np.ndarray:
        """Return the sum of one value (k,) per row over each image's rows, (images,)."""
        return np.bincount(self.owner, weights=column, minlength=self.images)

    def hands(self) -> list[list[Hand]]:
        """Return the hands of each image, where the rows are hands."""
        found: list[list[Hand]] = [[] for _ in range(self.images)]
        for owner, row in zip(self.owner, self.values, strict=True):
            found[owner].append(
                Hand(row[:63].reshape(21, 3), bool(row[63]), float(row[64]), int(row[65]), int(row[66]))
            )
        return found


# Takes images and the number of the first one; returns the rows of each image.
Extract = Callable[[list[np.ndarray], int], list[np.ndarray]]


def extract(
    images: ImageSet, prepare: Preparation, extract_shard: Extract, width: int, rule: str, cache: TensorCache | None
) -> Rows:
    """Return the rows (k, width) of a whole set; memory holds one shard of images at a time.

    `rule` says in words and hashes all that decides the rows beside images and preparation: with a cache, a shard with
    the same files, preparation and rule is not computed again.
    """
    from tqdm import tqdm

    values, owners = [], []
    starts = range(0, len(images.members), SHARD)
    for start in tqdm(starts, desc=rule.partition(" ")[0], unit="shard", disable=None, leave=False):
        members = images.members[start : start + SHARD]
        files = [(one.sha256, one.box if prepare.crop == "hand" else None) for one in members]
        key = key_of(what="rows", rule=rule, prepare=str(prepare), files=files)
        kept = cache.get(key) if cache else None
        if kept is None:
            found = extract_shard([prepare(images.read(one), one.box) for one in members], start)
            kept = _packed(found, width)
            if cache:
                cache.put(key, kept)
        if kept["counts"].any():
            values.append(kept["values"].numpy())
        owners.append(np.repeat(np.arange(start, start + len(members)), kept["counts"].numpy()))
    none = np.empty((0, width), dtype=np.float32)
    return Rows(np.concatenate([none, *values]), np.concatenate(owners), len(images.members))


def found_hands(
    images: ImageSet, prepare: Preparation, detection: float, sha256: str, cache: TensorCache | None
) -> Rows:
    """Return the hands in a set, found at a detection confidence with the landmarker's file of that hash.

    A row is a hand, see `Rows.hands`.
    """
    found = f"detection {detection}, presence {hands.PRESENCE}, searched at {hands.SEARCHED} px"
    with hands.hand_finder(detection) as finder:
        rows: Extract = lambda shard, _: [_hand_rows(hands.find(finder, pixels)) for pixels in shard]  # noqa: E731
        return extract(images, prepare, rows, HAND, f"hands: {found}, model {sha256}", cache)


def whole_images(network: "Network") -> Extract:
    """Return what gives one row of features for each image as it is."""
    return lambda images, _: [rows[None] for rows in network(images)]


def fitted_images(network: "Network") -> Extract:
    """Return what gives one row of features for each image after Resize(299) and CenterCrop(299)."""
    return lambda images, _: [rows[None] for rows in network([hands.fitted(pixels) for pixels in images])]


def standard_hands(network: "Network", found: Rows) -> Extract:
    """Return what gives a row of features for each hand in `found`, cut out by our rule."""
    by_image = found.hands()

    def rows(images: list[np.ndarray], start: int) -> list[np.ndarray]:
        crops = [hands.standard_crops(pixels, by_image[start + i]) for i, pixels in enumerate(images)]
        return _regrouped(network, crops)

    return rows


def union_hands(network: "Network", finder: HandFinder) -> Extract:
    """Return what gives a row for each image with hands: the released code's crop for FID-H (hands.UNION_CROP)."""

    def rows(images: list[np.ndarray], _: int) -> list[np.ndarray]:
        found = [hands.find(finder, pixels[:, :, ::-1]) for pixels in images]
        return _regrouped(
            network, [_boxes(pixels, [both] if both else []) for pixels, both in zip(images, found, strict=True)]
        )

    return rows


def reference_hands(network: "Network", finder: HandFinder) -> Extract:
    """Return what gives a row for each hand: the released code's crop for KID-H as meant (hands.HAND_CROP)."""

    def rows(images: list[np.ndarray], _: int) -> list[np.ndarray]:
        squares = [hands.fitted(pixels) for pixels in images]
        return _regrouped(
            network, [_boxes(square, [[hand] for hand in hands.find(finder, square)]) for square in squares]
        )

    return rows


@dataclass(frozen=True)
class Network:
    """A frozen network that makes one vector of an image, and the sha256 of its weights."""

    name: str
    sha256: str
    width: int
    run: Callable[[list[np.ndarray]], np.ndarray]  # images of one size to (n, width)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return features (n, width) float32 of images (height, width, 3) of uint8; sizes may differ."""
        made = np.empty((len(images), self.width), dtype=np.float32)
        sizes: dict[tuple[int, ...], list[int]] = {}
        for index, pixels in enumerate(images):
            sizes.setdefault(pixels.shape, []).append(index)
        for numbers in sizes.values():
            for start in range(0, len(numbers), BATCH):
                part = numbers[start : start + BATCH]
                made[part] = self.run([images[index] for index in part])
        return made


def inception_fid(weights: Path, device: torch.device) -> Network:
    """Load torch-fidelity's Inception (`inception-v3-compat`, TensorFlow's own resizing and weights)."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = _weights(weights)
    # torch-fidelity unpickles its file unsafely: it gets a copy that we wrote ourselves
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
    mean, deviation = (torch.tensor(x).reshape(3, 1, 1) for x in (_MEAN, _DEVIATION))

    def run(images: list[np.ndarray]) -> np.ndarray:
        pixels = (_stacked(images).float() / 255 - mean) / deviation  # (n, 3, 299, 299)
        with torch.no_grad():
            return np.asarray(network(pixels.to(device)).cpu().numpy())  # (n, 2048)

    return Network("inception-torchvision", sha256_of(weights), INCEPTION, run)


def clip_images(clip: Clip) -> "Network":
    """Return CLIP's image side as a network."""
    return Network("clip", fingerprint(clip.network), clip.width, clip.images)


def clip_texts(clip: Clip, texts: Sequence[str]) -> np.ndarray:
    """Return CLIP's features (n, width) of texts, a batch at a time."""
    return np.concatenate([clip.texts(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)])


def _weights(file: Path) -> dict[str, torch.Tensor]:
    import pickle

    try:
        state: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise UserError(f"{file} does not hold weights that can be read safely: {str(error).splitlines()[0]}") from None
    return state


def _stacked(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()  # (n, 3, h, w)


def _hand_rows(found: list[Hand]) -> np.ndarray:
    rows = [np.array([*hand.landmarks.ravel(), hand.left_hand, hand.score, hand.width, hand.height]) for hand in found]
    return np.array(rows, dtype=np.float32).reshape(-1, HAND)


def _boxes(pixels: np.ndarray, groups: list[list[Hand]]) -> list[np.ndarray]:
    crops = [hands.box_crop(pixels, group) for group in groups]
    return [crop for crop in crops if crop is not None]


def _regrouped(network: Network, crops: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Run all crops of a shard together and hand each image its own rows back."""
    flat = [crop for of_image in crops for crop in of_image]
    rows = network(flat)
    ends = np.cumsum([len(of_image) for of_image in crops])
    return np.split(rows, ends[:-1])


def _packed(found: list[np.ndarray], width: int) -> dict[str, torch.Tensor]:
    counts = torch.tensor([len(rows) for rows in found])
    if not counts.any():
        return {"counts": counts}
    values = np.concatenate([np.asarray(rows, dtype=np.float32).reshape(-1, width) for rows in found])
    return {"values": torch.from_numpy(values), "counts": counts}
