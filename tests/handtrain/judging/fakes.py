"""A landmarker and a judge of anatomy without a network: the image itself holds what they return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handdata.vision.landmarks import Hands
from handtrain.judging import judge as judging
from handtrain.judging.judgement import AnatomyMethod

COLOUR = (0, 200, 40)  # of a square that the landmarker takes for a hand
SHAPE = np.random.default_rng(0).uniform(0.05, 0.95, (21, 3))
SHAPE[:2, :2] = (0, 0), (1, 1)  # the landmarks reach the corners of the square


class Finder:
    """Finds squares of one colour: each is a hand, whose score is its blue value in percent."""

    def find(self, image: np.ndarray) -> Hands:
        found = (image[:, :, :2] == COLOUR[:2]).all(axis=2)
        columns = np.flatnonzero(found.any(axis=0))
        groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1) if len(columns) else []
        points, scores = [], []
        for group in groups:  # squares side by side
            rows = np.flatnonzero(found[:, group[0]])
            low, high = np.array([group[0], rows[0]]), np.array([group[-1] + 1, rows[-1] + 1])
            xy = (low + SHAPE[:, :2] * (high - low)) / (image.shape[1], image.shape[0])
            points.append(np.column_stack([xy, SHAPE[:, 2] * (high - low)[0] / image.shape[1]]))
            scores.append(float(image[rows[0], group[0], 2]) / 100)
        return Hands(np.array(points, np.float32).reshape(-1, 21, 3), ("Right",) * len(points), tuple(scores))

    def close(self) -> None:
        pass

    def __enter__(self) -> "Finder":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Found:
    p_wrong: float
    fingers: int | None
    flaw: str | None


class Anatomist:
    """Takes a hand for wrong by its score: 0.9 is 0.1 wrong. Below 0.5 it has a sixth finger."""

    def judge(self, image: np.ndarray, points: np.ndarray) -> Found:
        assert image.dtype == np.uint8 and points.shape == (21, 3)
        left, top = points[0, :2].round().astype(int)
        score = float(image[top, left, 2]) / 100
        return Found(1 - score, 5 if score >= 0.5 else 6, None if score >= 0.5 else "extra-finger")


METHOD = AnatomyMethod(Anatomist, "experimental", "A judge that reads a colour.")


def write_image(file: Path, *scores: int, side: int = 40, size: tuple[int, int] = (200, 100)) -> Path:
    """Write a grey image with a row of hands, given by their scores in percent."""
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    pixels[::2] = 90  # not of one colour
    for number, score in enumerate(scores):
        left = 10 + number * (side + 10)
        pixels[20 : 20 + side, left : left + side] = (*COLOUR[:2], score)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def judged(folders: Any, monkeypatch: Any, **flags: Any) -> Any:
    """Judge folders with the landmarker and the judge above."""
    monkeypatch.setattr(judging, "open_finder", Finder)
    return judging.judge(folders, **{"anatomy": METHOD, "workers": 1, **flags})
