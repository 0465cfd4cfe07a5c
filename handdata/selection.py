"""Choose images: per gesture and split, by a hash of (seed, image id), subjects disjoint between the splits."""

from dataclasses import dataclass

from handdata.gestures import PAPER_GESTURES


@dataclass(frozen=True)
class SelectOptions:
    """Which images, and how many of each gesture and split."""

    gestures: tuple[str, ...] = PAPER_GESTURES
    train: int = 1000  # per gesture (paper, section 4)
    validation: int = 100  # per gesture
    test: int = 1000  # per gesture (paper, section 4)
    seed: int = 0
    spare: float = 0.15  # share selected beyond the counts, to replace rows that fail
    max_per_subject: int = 1  # per gesture and split; 0: no limit
