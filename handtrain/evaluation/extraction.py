"""The tables of extractions: which network sees which part of every image, and the files that this needs."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from handdata import assets
from handdata.errors import Unfinished, UserError
from handdata.files import sha256_of
from handdata.machine import choose_device
from handdata.vision.clip import Clip
from handtrain import networks
from handtrain.evaluation import features, hands
from handtrain.evaluation.features import Extractor, Rows
from handtrain.evaluation.hands import Hand, HandFinders
from handtrain.evaluation.image_sets import ImageSet, Member
from handtrain.networks import Network
from handtrain.options import EvaluateOptions

Sides = dict[str, Rows]  # real, fake and, if given, base


@dataclass(frozen=True)
class Extraction:
    """Features of one kind: the network, and the parts of a prepared image that it sees."""

    network: str  # of INCEPTIONS or TRANSFORMERS, or clip
    crop: str  # the parts in words, which enter the cache's key
    crops: Callable[["Models", np.ndarray, Member], list[np.ndarray]]
    landmarker: bool = False  # whether the parts depend on the hand landmarker


def _whole(_: "Models", pixels: np.ndarray, __: Member) -> list[np.ndarray]:
    return [pixels]


def _fitted(_: "Models", pixels: np.ndarray, __: Member) -> list[np.ndarray]:
    return [hands.fitted(pixels)]


def _known_hands(models: "Models", pixels: np.ndarray, member: Member) -> list[np.ndarray]:
    return hands.standard_crops(pixels, models.hands[member])


def _hand_squares(models: "Models", pixels: np.ndarray, member: Member) -> list[np.ndarray]:
    return hands.squares(pixels, models.hands[member])


def _hands_together(models: "Models", pixels: np.ndarray, _: Member) -> list[np.ndarray]:
    return hands.union_crops(pixels, models.finder(hands.DETECTION))


def _each_hand(models: "Models", pixels: np.ndarray, _: Member) -> list[np.ndarray]:
    return hands.hand_crops(pixels, models.finder(hands.DETECTION))


# Extractions whose rows are hands, with the detection confidence.
DETECTIONS = {"hands": hands.DETECTION, "hands reference": hands.DETECTION_REFERENCE}
# Extractions whose rows are features. Those of one network follow each other: one network is in memory at a time.
FEATURES = {
    "fid": Extraction("inception-fid", "whole", _whole),
    "fid-h": Extraction("inception-fid", hands.STANDARD_CROP, _known_hands, landmarker=True),
    "fid reference": Extraction("inception-torchvision", "fitted", _fitted),
    "fid-h reference": Extraction("inception-torchvision", hands.UNION_CROP, _hands_together, landmarker=True),
    "kid-h reference": Extraction("inception-torchvision", hands.HAND_CROP, _each_hand, landmarker=True),
    "dinov2": Extraction("dinov2", "whole", _whole),
    "dinov2-h": Extraction("dinov2", hands.SQUARE, _hand_squares, landmarker=True),
    "cmmd": Extraction("cmmd", "whole", _whole),
    "cmmd-h": Extraction("cmmd", hands.SQUARE, _hand_squares, landmarker=True),
    "clip": Extraction("clip", "whole", _whole),
}
INCEPTIONS = {"inception-fid": networks.inception_fid, "inception-torchvision": networks.inception_torchvision}
TRANSFORMERS = {"dinov2": networks.dinov2, "cmmd": networks.cmmd_clip}
PUBLISHED = {"dinov2": "hf:facebook/dinov2-large", "cmmd": "hf:openai/clip-vit-large-patch14-336"}


class Missing(Exception):
    """An extraction lacks its weights or its input; the message is the reason."""


class Models(ExitStack):
    """The networks of an evaluation, loaded when they are needed, and the rows that were extracted."""

    def __init__(self, options: EvaluateOptions, device: str, images: dict[str, ImageSet]) -> None:
        super().__init__()
        self.options, self.device, self.images = options, choose_device(device), images
        self.weights: dict[str, str] = {}  # sha256 by name of the file
        self.rows: dict[str, Sides | str] = {}  # by extraction: the rows of every side, or why they are missing
        self.hands: dict[Member, list[Hand]] = {}
        self._network: Network | None = None
        self._unloadable: dict[str, str] = {}  # why a network cannot be loaded: one attempt is enough
        self._finders: dict[float, HandFinders] = {}

    def extractor(self, name: str) -> Extractor | str:
        """Return the extractor of an extraction, or the reason why it cannot be computed.

        Raises `UserError` if a file of weights that the options name does not exist.
        """
        try:
            return self._hands(DETECTIONS[name]) if name in DETECTIONS else self._features(name, FEATURES[name])
        except Missing as reason:
            return str(reason)

    def finder(self, detection: float) -> HandFinders:
        """Return the hand landmarkers at a detection confidence; they are closed with this object."""
        if detection not in self._finders:
            self._finders[detection] = self.enter_context(hands.hand_finder(detection))
        return self._finders[detection]

    def _hands(self, detection: float) -> Extractor:
        self._file(hands.MODEL)
        return features.hand_extractor(self.finder(detection), detection, self.weights[hands.MODEL])

    def _features(self, name: str, row: Extraction) -> Extractor:
        if row.network == "clip":
            return self._clip(name, row)
        if self._network is None or self._network.name != row.network:
            self._network = None  # frees the memory of the last network before the next one is loaded
            self._network = self._loaded(row.network)
        crop = row.crop
        if row.landmarker:
            self._file(hands.MODEL)
            self.hands = self.hands or self._hands_by_member()
            crop = f"{row.crop} {self.weights[hands.MODEL]}"
        searching = row.crops in (_hands_together, _each_hand)
        each = self.finder(hands.DETECTION).map if searching else map
        return features.feature_extractor(name, self._network, crop, partial(row.crops, self), each)

    def _loaded(self, name: str) -> Network:
        if name in INCEPTIONS:
            return INCEPTIONS[name](self._file(name), self.device)
        model = getattr(self.options, name)
        if model == "none":
            raise Missing(f"--{name} none: give --{name} {PUBLISHED[name]}, or a folder with these weights")
        if name not in self._unloadable:
            try:
                network = TRANSFORMERS[name](model, self.device)
            except (UserError, Unfinished) as error:
                self._unloadable[name] = str(error).replace(str(Path.home()), "~")  # the JSON may be published
            else:
                self.weights[name] = network.sha256
                return network
        raise Missing(self._unloadable[name])

    def _hands_by_member(self) -> dict[Member, list[Hand]]:
        rows = self.rows["hands"]
        assert not isinstance(rows, str), rows
        pairs = [zip(self.images[side].members, of_side.hands(), strict=True) for side, of_side in rows.items()]
        return {member: of_image for of_side in pairs for member, of_image in of_side}

    def _clip(self, name: str, row: Extraction) -> Extractor:
        """Return an extractor of the cosine (1,) between CLIP's features of image and text."""
        if self.options.clip == "none":
            raise Missing("--clip none")
        if None in [member.text for member in self.images["fake"].members]:
            raise Missing("the generated images have no prompts (generation.jsonl)")
        try:
            clip = Clip(self.options.clip, str(self.device))
        except (UserError, Unfinished) as error:
            raise Missing(str(error)) from None
        self._network = networks.clip_images(clip)
        self.weights["clip"] = self._network.sha256
        extractor = features.feature_extractor(name, self._network, row.crop, partial(row.crops, self))
        return replace(extractor, finish=partial(features.clip_cosines, clip))

    def _file(self, name: str) -> Path:
        """Return the path of a file of weights and note its sha256."""
        own = getattr(self.options, name.replace("-", "_"), None)
        if own and not Path(own).is_file():
            raise UserError(f"--{name} {own} is not a file: name the weights")
        try:
            path = Path(own) if own else assets.path(name)
        except UserError as error:
            raise Missing(str(error).replace(str(Path.home()), "~")) from None  # the JSON may be published
        if name not in self.weights:
            self.weights[name] = sha256_of(path)
        return path
