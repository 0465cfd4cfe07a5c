"""Readings of a hand by MediaPipe's landmark network, and signals from them that are trained on nothing.

The network sees a hand in eight views: mirrored, turned, larger and smaller. A well-formed hand gets the same landmarks
each time. A wrong one does not, since no reading fits.
"""

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from handdata import assets
from handdata.vision.landmarks import ASSET
from handtrain.landmark_network.views import SIDE, VIEWS, Floats

if TYPE_CHECKING:
    from handtrain.landmark_network.tflite import Network

FEATURES = 1152  # numbers of the network's last layer but one
STABILITY = ("spread", "tips", "largest", "depth", "bones", "presence", "lowest presence", "handedness", "bends")

# Tensors of the network by their numbers in the file, whose hash is in manifests/assets.toml.
_READ = 165, 164, 162, 166, 160  # points, presence, hand, world, features
_MEMBER = "hand_landmarks_detector.tflite"
_CHAINS = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (0, 9, 10, 11, 12), (0, 13, 14, 15, 16), (0, 17, 18, 19, 20))
_TIPS = [4, 8, 12, 16, 20]
_TINY = 1e-4


@dataclass(frozen=True)
class Readings:
    """The network's outputs for v views of a hand."""

    points: Floats  # (v, 21, 3) in pixels of the view
    presence: Floats  # (v,) probability of a hand
    hand: Floats  # (v,) handedness, 0 to 1
    world: Floats  # (v, 21, 3) in metres
    features: Floats  # (v, FEATURES), not negative


def open_network() -> "Network":
    """Return the landmark network of MediaPipe's hand landmarker. Raises `UserError` if its file is missing."""
    from handtrain.landmark_network.tflite import Network

    with zipfile.ZipFile(assets.path(ASSET)) as archive:
        return Network(archive.read(_MEMBER), _READ).eval()


def read_views(network: "Network", crops: NDArray[np.uint8]) -> Readings:
    """Run the network on views (v, SIDE, SIDE, 3)."""
    import torch

    with torch.inference_mode():
        known = network(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255)
    points, presence, hand, world, features = (known[number].numpy().astype(float) for number in _READ)
    return Readings(points.reshape(-1, 21, 3), presence[:, 0], hand[:, 0], world.reshape(-1, 21, 3), features)


def stability(read: Readings, matrices: Floats) -> Floats:
    """Return the signals of STABILITY (9,): how far the views disagree; the first five and the last grow with it.

    `matrices` (8, 2, 3) lead from the views to the image. Distances are in sizes of the hand, on a logarithmic scale.
    """
    flat = np.einsum("vij,vpj->vpi", matrices[:, :, :2], read.points[:, :, :2]) + matrices[:, None, :, 2]
    spread = np.linalg.norm(flat - flat.mean(axis=0), axis=2) / (np.ptp(flat[0], axis=0).max() + _TINY)  # (8, 21)
    depth = read.points[:, :, 2] / SIDE
    lengths, bends = bones(read.world)
    handed = np.where([view[0] for view in VIEWS], 1 - read.hand, read.hand).mean()
    distances = [
        spread.mean(),
        spread[:, _TIPS].mean(),
        spread.mean(axis=0).max(),
        (depth - depth.mean(axis=0)).std(axis=0).mean(),
        lengths.std(axis=0).mean(),
    ]
    others = [read.presence.mean(), read.presence.min(), min(handed, 1 - handed), bends.std(axis=0).mean()]
    return np.array([*np.log(np.array(distances) + _TINY), *others])


def mean_features(read: Readings) -> Floats:
    """Return the mean (1152,) of the views' features, each as its square root: most are small and few are large."""
    mean: Floats = np.sqrt(np.maximum(read.features, 0)).mean(axis=0)
    return mean


def bones(world: Floats) -> tuple[Floats, Floats]:
    """Return lengths (v, 20), in mean bones of the palm, and bends (v, 15) in radians of landmarks (v, 21, 3) in 3D."""
    lengths, bends = [], []
    for chain in _CHAINS:
        bone = np.diff(world[:, chain], axis=1)  # (v, 4, 3)
        length = np.linalg.norm(bone, axis=2)
        unit = bone / (length[..., None] + 1e-9)
        lengths.append(length)
        bends.append(np.arccos(np.clip((unit[:, :-1] * unit[:, 1:]).sum(axis=2), -1, 1)))
    palm = np.stack([length[:, 0] for length in lengths], axis=1).mean(axis=1, keepdims=True)
    return np.concatenate(lengths, axis=1) / (palm + 1e-9), np.concatenate(bends, axis=1)


def all_visible(points: Floats) -> bool:
    """Return whether all fingers of landmarks (21, >= 2) are extended, so that they can be counted.

    A finger is extended if its tip is farther from the wrist than its middle joint by a fifth, the thumb if its tip is
    farther from the little finger's knuckle than its own knuckle is by a tenth.
    """
    flat = points[:, :2]
    from_wrist, from_little = (np.linalg.norm(flat - flat[joint], axis=1) for joint in (0, 17))
    fingers = all(from_wrist[chain[4]] > 1.2 * from_wrist[chain[2]] for chain in _CHAINS[1:])
    return bool(fingers and from_little[4] > 1.1 * from_little[2])
