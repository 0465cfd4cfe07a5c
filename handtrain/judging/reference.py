"""Names of gestures without a dataset: landmarks of drawn hands of 18 gestures ship with the package.

`python -m benchmarks.gesture_reference` made the file: MediaPipe's landmarks of pictures of `handdata render`.
"""

from functools import cache
from pathlib import Path

import numpy as np

from handdata.shipped import resource
from handtrain.evaluation.hands import Hand
from handtrain.evaluation.metrics import GestureJudge, joint_angles
from handtrain.method.gesture import normalised

FILE = "models/gesture-reference.npz"
FARTHEST = 100  # percentile: a photograph's hand may be as far from the drawn ones as the most unusual of them is


def write_reference(path: Path, hands: np.ndarray, names: np.ndarray) -> None:
    """Write normalised landmarks (n, 63) and the gesture of each (n,) as an npz file of 16-bit floats."""
    with path.open("wb") as file:
        np.savez_compressed(file, hands=hands.astype(np.float16), names=names.astype(str))


@cache
def gesture_reference() -> GestureJudge:
    """Return the judge of gestures that the package ships, on the features of `features`."""
    with np.load(resource(FILE), allow_pickle=False) as file:
        return GestureJudge.fit(features(file["hands"].astype(np.float64)), file["names"], FARTHEST)


def gestures_named(hands: list[Hand]) -> list[str]:
    """Return the gesture of each hand by the shipped reference, `none` for an unknown one."""
    points = np.array([normalised(hand) for hand in hands]).reshape(-1, 63)  # type: ignore[arg-type]
    return [str(name) for name in gesture_reference().name(features(points))]


def features(hands: np.ndarray) -> np.ndarray:
    """Return 26 numbers (n, 26) of normalised landmarks (n, 63): 20 joint angles, the palm's direction and normal.

    They do not depend on a person's proportions, as the landmarks do: with them 18 of 19 photographs are named right
    by drawn hands, with the landmarks 13 (docs/benchmarks.md).
    """
    points = hands.reshape(-1, 21, 3)
    index, middle, little = (points[:, number] for number in (5, 9, 17))  # knuckles; the wrist is the origin
    normal = np.cross(index, little)
    directions = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-6) for each in (middle, normal)]
    return np.concatenate([joint_angles(points), *directions], axis=1)
