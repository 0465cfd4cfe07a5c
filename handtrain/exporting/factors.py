"""The change of a fine-tuned UNet as low-rank factors (singular value decomposition of every layer's difference)."""

from dataclasses import dataclass
from typing import Any

import torch

from handtrain.model.formats.lora import Factors, Layers, change, layers_of


@dataclass(frozen=True)
class Approximation:
    """The factors of a UNet's change, and the shares of its energy (sum of squares) that they keep."""

    factors: Factors
    kept_of_layers: float  # of the change of the chosen layers
    kept_of_all: float  # of the change of all weights, biases and norms included


@torch.no_grad()
def approximate(tuned: Any, base: Any, rank: int, layers: Layers) -> Approximation:
    """Return the best factors of a rank for the difference of two UNets of one architecture, in float32.

    Layers with a smaller side than the rank are filled with zeros: one rank for all layers, which every program reads.
    """
    before, after = base.state_dict(), tuned.state_dict()
    whole = sum(float((after[name].double() - before[name].double()).square().sum()) for name in before)
    factors, of_layers, kept = {}, 0.0, 0.0
    for name in layers_of(base, layers):
        difference = after[f"{name}.weight"].double() - before[f"{name}.weight"].double()
        down, up = factored(difference, rank)
        energy = float(difference.square().sum())
        of_layers += energy
        kept += energy - float((difference - change(down, up)).square().sum())
        factors[name] = (down.float().contiguous(), up.float().contiguous())
    return Approximation(factors, kept / of_layers if of_layers else 1.0, kept / whole if whole else 1.0)


def factored(difference: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return down (rank, in[, k, k]) and up (out, rank[, 1, 1]), whose product is nearest to a difference.

    The singular vectors are the eigenvectors of the smaller of the two Gram matrices, in the difference's precision: a
    decomposition of a convolution of 1280 x 23040 takes a second instead of ten.
    """
    matrix = difference.flatten(1)  # (out, in * k * k)
    wide = matrix.shape[0] <= matrix.shape[1]
    _, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    largest = vectors[:, -rank:].flip(1)  # columns, the largest first
    down, up = (largest.T @ matrix, largest) if wide else (largest.T, matrix @ largest)
    missing = rank - largest.shape[1]
    down = torch.nn.functional.pad(down, (0, 0, 0, max(missing, 0)))
    up = torch.nn.functional.pad(up, (0, max(missing, 0)))
    kernel = difference.shape[2:]
    return down.reshape(rank, *difference.shape[1:]), up.reshape(len(difference), rank, *(1 for _ in kernel))


@torch.no_grad()
def merged(base: Any, factors: Factors) -> Any:
    """Add factors to a UNet's weights, in place, and return it."""
    weights = dict(base.named_parameters())
    for name, (down, up) in factors.items():
        weight = weights[f"{name}.weight"]
        weight += change(down, up).to(weight)
    return base
