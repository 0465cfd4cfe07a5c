"""Judgement of a hand's anatomy: the probability that it is wrong, its number of fingers, and its most likely flaw.

A linear layer on the features of MediaPipe's landmark network and the agreement of eight views are combined by a
logistic regression. Both were fitted on drawn pairs of right and wrong hands (`benchmarks/anatomy.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handdata.files import sha256_of
from handdata.shipped import resource
from handtrain.landmark_network.readings import (
    Readings,
    all_visible,
    mean_features,
    open_network,
    read_views,
    stability,
)
from handtrain.landmark_network.views import Floats, views

STATUS = "experimental"
CAVEAT = (
    "on drawn hands of people on whom it was not fitted its AUC is 0.88 at 256 px and 0.76 at "
    "64 px (HAND-CONF: 0.56 and 0.56), and it is above 0.5 for 21 % of the right drawn hands at 256 px and 18 of 39 "
    "real photographs, so compare folders of one kind of picture by it and do not trust it on a single hand."
)
FLAWS = (
    "extra-finger",
    "missing-finger",
    "fused-fingers",
    "wrong-length",
    "backward-bend",
    "sideways-bend",
    "double-thumb",
)
FINGERS = (3, 4, 5, 6)
WEIGHTS = "models/anatomy/anatomy.safetensors"
SHA256 = "dd36a8a2293f5bb1eff05a28aa01b3a7ffb686d5b84905b9c1142fad47c24340"


class Anatomy(NamedTuple):
    """The judgement of one hand."""

    p_wrong: float  # 0 to 1
    fingers: int | None  # with the thumb; None where not all are extended
    flaw: str  # of FLAWS; '' for a hand that is more likely right than wrong


@dataclass(frozen=True)
class Weights:
    """The fitted numbers, float32: a linear layer on the features, a logistic regression on it and the stability."""

    mean: Floats  # (1152,) of the features
    scale: Floats  # (1152,)
    linear: Floats  # (1152, 12) to: wrong, each of FLAWS, each of FINGERS
    logistic: Floats  # (3,) factors of the output `wrong` and of the logarithm of the spread, and a constant

    @classmethod
    def load(cls, path: Path | None = None) -> "Weights":
        """Load the shipped weights, or those in a file. Raises `ValueError` for shipped ones with another hash."""
        from safetensors.numpy import load_file

        if path is None:
            path = resource(WEIGHTS)
            if sha256_of(path) != SHA256:
                raise ValueError(f"{path} is not the file that this version was measured with")
        return cls(**load_file(path))

    def outputs(self, features: Floats) -> Floats:
        """Return the linear layer's outputs (..., 12) for features (..., 1152)."""
        outputs: Floats = (features - self.mean) / self.scale @ self.linear
        return outputs

    def p_wrong(self, outputs: Floats, signals: Floats) -> Floats:
        """Return the probability (...) that hands are wrong, from outputs (..., 12) and signals (..., 9)."""
        first, second, constant = self.logistic
        probability: Floats = 1 / (1 + np.exp(-(first * outputs[..., 0] + second * signals[..., 0] + constant)))
        return probability


class AnatomyJudge:
    """Judges hands one by one; the models are loaded once."""

    def __init__(self, weights: Weights | None = None) -> None:
        """Load the models. Raises `UserError` if the file of MediaPipe's hand landmarker is missing."""
        self._network, self._weights = open_network(), weights or Weights.load()

    def judge(self, image: NDArray[np.uint8], points: Floats) -> Anatomy:
        """Judge the hand with landmarks `points` (21, 3), x and y in pixels of the RGB image (h, w, 3), z likewise."""
        crops, matrices = views(image, points)
        read = read_views(self._network, crops)
        return decide(self._weights, read, stability(read, matrices), points)


def decide(weights: Weights, read: Readings, signals: Floats, points: Floats) -> Anatomy:
    """Return the judgement of a hand from its readings."""
    outputs = weights.outputs(mean_features(read))
    p_wrong = float(weights.p_wrong(outputs, signals))
    flaws, counts = outputs[1 : 1 + len(FLAWS)], outputs[1 + len(FLAWS) :]
    fingers = FINGERS[int(counts.argmax())] if all_visible(points) else None
    return Anatomy(p_wrong, fingers, FLAWS[int(flaws.argmax())] if p_wrong > 0.5 else "")
