"""What the networks make of every side of a comparison: one network in memory at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from handdata import assets
from handdata.clip import Clip
from handdata.errors import Unfinished, UserError
from handdata.files import sha256_of
from handtrain.evaluation import features, hands
from handtrain.evaluation.features import Network
from handtrain.evaluation.image_sets import ImageSet, Preparation
from handtrain.evaluation.scores import Entry, Sides, Values, not_computed
from handtrain.options import EvaluateOptions
from handtrain.tensor_cache import TensorCache


class Material:
    """What the networks made of every side, one extraction after the other; each is its rows or the reason it lacks."""

    def __init__(
        self,
        options: EvaluateOptions,
        sides: dict[str, ImageSet],
        prepare: Preparation,
        cache: TensorCache,
        device: torch.device,
    ) -> None:
        self.sides, self.prepare, self.cache = sides, prepare, cache
        self.weights: dict[str, str] = {}  # sha256 by file
        self.rows: dict[str, Sides] = {}
        self.lacking: dict[str, str] = {}  # the reason, by extraction
        self.reference = options.variants == "both"
        self._find_hands()
        self._inception_fid(options.inception_fid, device)
        if self.reference:
            self._inception_torchvision(options.inception_torchvision, device)
        self.cosines = self._clip(options.clip, device)

    def get(self, name: str, then: Callable[[Sides], Entry]) -> Entry:
        """Return what `then` makes of an extraction, or why there is none."""
        return then(self.rows[name]) if name in self.rows else not_computed(self.lacking[name])

    def _find_hands(self) -> None:
        wanted = {
            "hands": hands.DETECTION,
            **({"hands reference": hands.DETECTION_REFERENCE} if self.reference else {}),
        }
        if self._asset(hands.MODEL, None, [*wanted, "fid-h"]) is None:
            return
        for name, detection in wanted.items():
            self.rows[name] = {
                side: features.found_hands(
                    images, self.prepare, detection, self.weights[hands.MODEL], self._cache_of(side)
                )
                for side, images in self.sides.items()
            }

    def _inception_fid(self, file: Path | None, device: torch.device) -> None:
        weights = self._asset("inception-fid", file, ["fid", "fid-h"])
        if weights is None:
            return
        network = features.inception_fid(weights, device)
        self._network("fid", network, self._alike(features.whole_images(network)), "whole")
        if "hands" in self.rows:
            found = self.rows["hands"]
            rule = f"{hands.STANDARD_CROP} {self.weights[hands.MODEL]}"
            make = {side: features.standard_hands(network, rows) for side, rows in found.items()}
            self._network("fid-h", network, make, rule)

    def _inception_torchvision(self, file: Path | None, device: torch.device) -> None:
        names = ["fid reference", "fid-h reference", "kid-h reference"]
        weights = self._asset("inception-torchvision", file, names)
        if weights is None:
            return
        network = features.inception_torchvision(weights, device)
        self._network("fid reference", network, self._alike(features.fitted_images(network)), "fitted")
        if self._asset(hands.MODEL, None, names[1:]) is None:
            return
        sha256 = self.weights[hands.MODEL]
        with hands.hand_finder(hands.DETECTION) as finder:
            union, each = features.union_hands(network, finder), features.reference_hands(network, finder)
            self._network(names[1], network, self._alike(union), f"{hands.UNION_CROP} {sha256}")
            self._network(names[2], network, self._alike(each), f"{hands.HAND_CROP} {sha256}")

    def _clip(self, model: str, device: torch.device) -> Values | str:
        """Return the cosine (n,) of every image with its text, by side; or why there is none."""
        if model == "none":
            return "--clip none"
        texts = {side: [one.text for one in images.members] for side, images in self.sides.items()}
        if None in texts["fake"]:
            return "the generated images have no prompts (generation.jsonl)"
        try:
            clip = Clip(model, str(device))
        except (UserError, Unfinished) as error:
            return str(error)
        network = features.clip_images(clip)
        self.weights["clip"] = network.sha256
        self._network("clip", network, self._alike(features.whole_images(network)), "whole")
        return {
            side: None
            if None in texts[side]
            else _cosines(self.rows["clip"][side].values, features.clip_texts(clip, texts[side]))  # type: ignore[arg-type]
            for side in self.sides
        }

    def _alike(self, extract: features.Extract) -> dict[str, features.Extract]:
        return dict.fromkeys(self.sides, extract)

    def _network(self, name: str, network: Network, make: dict[str, features.Extract], rule: str) -> None:
        self._extract(name, make, network.width, f"{network.name} {network.sha256} {rule}")

    def _extract(self, name: str, make: dict[str, features.Extract], width: int, rule: str) -> None:
        self.rows[name] = {}
        for side, images in self.sides.items():
            self.rows[name][side] = features.extract(
                images, self.prepare, make[side], width, f"{name}: {rule}", self._cache_of(side)
            )

    def _cache_of(self, side: str) -> TensorCache | None:
        """Return where the rows of a side are kept: real images come again, generated ones do not."""
        return self.cache if side == "real" else None

    def _asset(self, name: str, file: Path | None, wanted_by: list[str]) -> Path | None:
        """Return a model file and note its sha256; note the reason for those who want it if it is not here."""
        try:
            path = file or assets.path(name)
            if not path.is_file():
                raise UserError(f"--{name} {path} is not a file: name the weights")
        except UserError as error:
            if file:
                raise
            reason = str(error).replace(str(Path.home()), "~")  # the JSON may be published
            self.lacking.update(dict.fromkeys(wanted_by, reason))
            return None
        self.weights[name] = sha256_of(path)
        return path


def _cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    return np.asarray((images * texts).sum(axis=1) / lengths)
