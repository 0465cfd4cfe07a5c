"""The rows of `benchmarks.own_gesture`: every training, and the number of its images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.pose_rows import FAIR, PLUS

SCREENED, FULL = 60, 300  # images of a row: one or five seeds of the 60 prompts


@dataclass(frozen=True)
class Row:
    """One training on so many photographs, with so many samples, and its images; no photographs: the base."""

    variant: str
    photographs: int
    samples: int
    options: dict[str, Any]
    images: int = SCREENED
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of the row's files."""
        variant = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in self.variant)
        return f"{variant}-{self.photographs}-{self.samples}-{self.seed}"


_PLUS: dict[str, Any] = {**PLUS, "prior_images": 256}
_VARIANTS: dict[str, dict[str, Any]] = {
    "plus": _PLUS,
    "plain": FAIR,
    "plus, LoRA 16": {**_PLUS, "lora_rank": 16, "unet_lr": 3.2e-3},
    "plus, rate 4e-4": {**_PLUS, "unet_lr": 4e-4},
    "plus, rate 16e-4": {**_PLUS, "unet_lr": 16e-4},
    "plus, no prior": {**PLUS, "prior": 0.0},
    # the weights of the best of five evaluations on 30 images of validation texts
    "plus, best": {**_PLUS, "evaluate_every": 128, "evaluation_images": 30, "keep": "best", "patience": 2},
}


def bases(chosen: Sequence[Row]) -> list[Row]:
    """Return the untrained base with the prompts and noise of the chosen rows."""
    return [base(max(row.images for row in chosen))] if chosen else []


def base(images: int = FULL) -> Row:
    """Return the untrained base: the same prompts and noise."""
    return Row("base", 0, 0, {}, images)


def rows() -> Iterator[Row]:
    """Yield the trainings in the order in which they are made."""
    yield _row("plus", 30, 16384, FULL)
    for variant in _VARIANTS:
        if variant != "plus, best":
            yield _row(variant, 30, 4096)
    yield _row("plus", 100, 16384, FULL)
    yield _row("plain", 30, 16384)
    yield _row("plus", 10, 4096)
    yield _row("plus", 10, 16384)
    yield _row("plus, best", 30, 16384, FULL)


def _row(variant: str, photographs: int, samples: int, images: int = SCREENED) -> Row:
    return Row(variant, photographs, samples, _VARIANTS[variant], images)
