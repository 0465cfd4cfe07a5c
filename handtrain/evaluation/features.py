"""Features and hands of an image set: computed shard by shard, cached by content.

Everything extracted from an image is a row: features of the whole image or of one of its crops, or one of its hands.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from handdata.progress import bar
from handdata.vision.clip import Clip
from handdata.vision.pixels import PIXELS
from handtrain.evaluation import hands
from handtrain.evaluation.hands import Hand, HandFinders
from handtrain.evaluation.image_sets import ImageSet, Member, Preparation
from handtrain.networks import BATCH, Network
from handtrain.tensor_cache import TensorCache, key_of

SHARD = 128  # images whose features are computed and cached together

HAND = 21 * 3 + 2 + 2  # landmarks, left, score, width, height


@dataclass(frozen=True)
class Rows:
    """Rows extracted from an image set."""

    values: np.ndarray  # (k, d) float32
    owner: np.ndarray  # (k,) index of the image that each row belongs to
    images: int

    def counts(self) -> np.ndarray:
        """Return the number of rows of each image, (images,)."""
        return np.bincount(self.owner, minlength=self.images)

    def sums(self, column: np.ndarray) -> np.ndarray:
        """Return the sum of one value (k,) per row over each image's rows, (images,)."""
        return np.bincount(self.owner, weights=column, minlength=self.images)

    def hands(self) -> list[list[Hand]]:
        """Return the hands of each image, where the rows are hands."""
        by_image: list[list[Hand]] = [[] for _ in range(self.images)]
        for owner, row in zip(self.owner, self.values, strict=True):
            points, (left_hand, score, width, height) = row[:63].reshape(21, 3), row[63:]
            by_image[owner].append(Hand(points, bool(left_hand), float(score), int(width), int(height)))
        return by_image


@dataclass(frozen=True)
class Extractor:
    """A function from the images of a shard to the rows (k, width) of each image."""

    rule: str  # names, hashes and settings that decide the rows, together with images and preparation
    width: int
    rows: Callable[[list[np.ndarray], list[Member]], list[np.ndarray]]
    finish: Callable[[Rows, list[Member]], Rows] = lambda rows, _: rows  # applied to the rows of a whole set


Crops = Callable[[np.ndarray, Member], list[np.ndarray]]  # an image (height, width, 3) of uint8 to parts of it


def extract(images: ImageSet, prepare: Preparation, extractor: Extractor, cache: TensorCache | None) -> Rows:
    """Return the rows (k, width) of a whole set; memory holds one shard of images at a time.

    With a cache, a shard with the same files, preparation and rule is not computed again.
    """
    values, owners = [np.empty((0, extractor.width), dtype=np.float32)], []
    starts = range(0, len(images.members), SHARD)
    for start in bar(starts, desc=extractor.rule.partition(":")[0], unit="shard", leave=False):
        members = images.members[start : start + SHARD]
        files = [(member.sha256, member.box if prepare.crop == "hand" else None) for member in members]
        key = key_of(what="rows", rule=extractor.rule, prepare=str(prepare), pixels=PIXELS, files=files)
        shard = cache.get(key) if cache else None
        if shard is None:
            pixels = [prepare(images.read(member), member.box) for member in members]
            shard = _packed(extractor.rows(pixels, members), extractor.width)
            if cache:
                cache.put(key, shard)
        if shard["counts"].any():
            values.append(shard["values"].numpy())
        owners.append(np.repeat(np.arange(start, start + len(members)), shard["counts"].numpy()))
    rows = Rows(np.concatenate(values), np.concatenate(owners), len(images.members))
    return extractor.finish(rows, images.members)


def hand_extractor(finder: HandFinders, detection: float, sha256: str) -> Extractor:
    """Return an extractor of hands, see `Rows.hands`. `sha256` is that of the landmarker's file."""
    settings = f"detection {detection}, presence {hands.PRESENCE}, searched at {hands.SEARCHED} px"

    def rows(images: list[np.ndarray], _: list[Member]) -> list[np.ndarray]:
        return finder.map(lambda pixels: _hand_rows(hands.find(finder, pixels)), images)

    return Extractor(f"hands: {settings}, model {sha256}", HAND, rows)


def feature_extractor(
    name: str, network: Network, crop: str, crops: Crops, each: Callable[..., Iterable[list[np.ndarray]]] = map
) -> Extractor:
    """Return an extractor of features of the parts of an image that `crops` cuts out; `crop` is its rule in words.

    `each` calls it for all images of a shard, by default one after the other.
    """

    def rows(images: list[np.ndarray], members: list[Member]) -> list[np.ndarray]:
        parts = list(each(crops, images, members))
        features = network([part for of_image in parts for part in of_image])
        return np.split(features, np.cumsum([len(of_image) for of_image in parts])[:-1])

    return Extractor(f"{name}: {network.name} {network.sha256} {crop}", network.width, rows)


def clip_cosines(clip: Clip, images: Rows, members: list[Member]) -> Rows:
    """Return the cosine (n, 1) between CLIP's features of every image and its text; no rows if a text is missing."""
    texts = [member.text for member in members if member.text is not None]
    if len(texts) < len(members):
        return Rows(np.empty((0, 1), np.float32), np.empty(0, int), images.images)
    batches = [clip.texts(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    features = np.concatenate(batches)  # (n, width)
    lengths = np.linalg.norm(images.values, axis=1) * np.linalg.norm(features, axis=1)
    return Rows(((images.values * features).sum(axis=1) / lengths)[:, None], images.owner, images.images)


def _hand_rows(of_image: list[Hand]) -> np.ndarray:
    rows = [[*hand.landmarks.ravel(), hand.left_hand, hand.score, hand.width, hand.height] for hand in of_image]
    return np.array(rows, dtype=np.float32).reshape(-1, HAND)


def _packed(rows_by_image: list[np.ndarray], width: int) -> dict[str, torch.Tensor]:
    counts = torch.tensor([len(rows) for rows in rows_by_image])
    if not counts.any():
        return {"counts": counts}
    values = np.concatenate([np.asarray(rows, dtype=np.float32).reshape(-1, width) for rows in rows_by_image])
    return {"values": torch.from_numpy(values), "counts": counts}
