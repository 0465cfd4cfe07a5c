"""Double fusion: text embedding and gesture feature through one linear layer, mixed with the text embedding.

E = lam * T + (1 - lam) * F with F = FC([T; g]) (paper, section 3.2). `flat` is the paper's layer over all tokens at
once. It is never trained, and at full size it has 3.5 billion weights, so it is drawn from its seed block by block
at every use. `token` is one trained layer that every token passes through. This module imports no other module of
ours: published models contain it in their one-file pipeline.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

FIRST_BLOCK = 2**20  # weights whose hash shows whether this torch draws the same stream
BLOCK_BYTES = 96 * 2**20  # of weights in memory
GROUP = 32  # prompts per product: a fixed number, so that a prompt's result does not depend on the others


def mix(text: torch.Tensor, fused: torch.Tensor, share: float) -> torch.Tensor:
    """Return share * T + (1 - share) * F, the double-fused embedding. `share` is lam in training, mu in generation."""
    return share * text + (1 - share) * fused


@dataclass(frozen=True)
class FlatFusion:
    """The layer Linear(tokens * width + numbers -> tokens * width), as PyTorch initialises it from a seed."""

    seed: int
    tokens: int  # 77
    width: int  # 768
    numbers: int  # 63, of the gesture feature

    def __call__(
        self,
        text: torch.Tensor,
        feature: torch.Tensor,
        block_rows: int = 0,
        advance: Callable[[int], object] = lambda rows: None,
        device: torch.device | str = "cpu",
    ) -> torch.Tensor:
        """Return F (n, tokens, width) of embeddings T (n, tokens, width) and one gesture feature g (numbers,).

        Everything is float32. One pass draws the weights on the CPU once for any n, `block_rows` rows of the matrix at
        a time (0: as many as fit into 96 MiB), and multiplies them on `device`, where it needs the input, the output,
        one block and, unless n is a multiple of 32, a padded copy of the last prompts. The block size and the device
        change nothing but rounding. `advance` is called with the number of rows of each finished block, for a progress
        bar over tokens * width.
        """
        flat = text.detach().to(device, torch.float32).reshape(len(text), -1)  # (n, tokens * width)
        g = feature.detach().to(device, torch.float32)  # (numbers,)
        out = torch.empty_like(flat)
        groups = [(start, _padded(flat[start : start + GROUP])) for start in range(0, len(flat), GROUP)]
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for rows, drawn in self._blocks(generator, block_rows or BLOCK_BYTES // (4 * self._inputs) or 1):
                weight = drawn.to(device)  # (rows, inputs)
                constant = weight[:, self._outputs :] @ g  # (rows,)
                for start, group in groups:
                    product = group @ weight[:, : self._outputs].T + constant  # (GROUP, rows)
                    out[start : start + GROUP, rows] = product[: len(out) - start]
                advance(rows.stop - rows.start)
            bias_bound = 1 / math.sqrt(self._inputs)
            out += torch.empty(self._outputs).uniform_(-bias_bound, bias_bound, generator=generator).to(device)
        return out.reshape(text.shape).cpu()

    def first_block_sha256(self) -> str:
        """Return the sha256 of the first 2**20 weights (or of all, if fewer) as little-endian float32."""
        block = torch.empty(min(FIRST_BLOCK, self._inputs * self._outputs))
        block.uniform_(-self._bound, self._bound, generator=torch.Generator().manual_seed(self.seed))
        return hashlib.sha256(block.numpy().astype("<f4").tobytes()).hexdigest()

    def require_same_stream(self, sha256: str) -> None:
        """Raise `ValueError` if this torch draws a layer with another hash from the seed."""
        if self.first_block_sha256() != sha256:
            raise ValueError(
                f"torch {torch.__version__} draws other random numbers from seed {self.seed} than the torch that "
                "trained this model: its fusion layer cannot be reproduced here; use another version of torch"
            )

    @property
    def _outputs(self) -> int:
        return self.tokens * self.width

    @property
    def _inputs(self) -> int:
        return self._outputs + self.numbers

    @property
    def _bound(self) -> float:
        # kaiming_uniform_ with a = sqrt(5), term by term as torch computes it, so that all bits are equal.
        return math.sqrt(3.0) * (math.sqrt(2.0 / (1 + math.sqrt(5) ** 2)) / math.sqrt(self._inputs))

    def _blocks(self, generator: torch.Generator, block_rows: int) -> Iterator[tuple[slice, torch.Tensor]]:
        # `uniform_` takes one number of the stream for each weight, in order: the blocks' size cannot matter.
        buffer = torch.empty(min(block_rows, self._outputs), self._inputs)
        for start in range(0, self._outputs, len(buffer)):
            rows = slice(start, min(start + len(buffer), self._outputs))
            yield rows, buffer[: rows.stop - start].uniform_(-self._bound, self._bound, generator=generator)


class TokenFusion(torch.nn.Module):
    """The layer Linear(width + numbers -> width), the same for every token; it starts as F = T."""

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width + numbers, width)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(width, width + numbers))
            self.linear.bias.zero_()

    def forward(self, text: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """Return F (n, tokens, width) of T (n, tokens, width) and one gesture feature g (numbers,)."""
        g = feature.to(text).expand(*text.shape[:-1], -1)  # (n, tokens, numbers)
        fused: torch.Tensor = self.linear(torch.cat([text, g], dim=-1))  # (n, tokens, width)
        return fused


def _padded(group: torch.Tensor) -> torch.Tensor:
    if len(group) == GROUP:
        return group
    return torch.cat([group, group.new_zeros(GROUP - len(group), group.shape[1])])
