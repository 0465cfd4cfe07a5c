"""A network's copy in bfloat16 that computes for it, while the network keeps its weights in float32.

A weight in bfloat16 has 8 significant bits: an Adam step of 1e-6 is lost in it. So gradients are taken from the copy
and added up in float32, Adam changes the float32 weights, and their values are copied back (Micikevicius et al. 2018,
"Mixed precision training"). Against autocast this saves a cast of every weight and activation in every layer.
Normalization layers compute their statistics in float32 in torch's kernels, whatever the type of their input.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class HalfCopy:
    """A copy in bfloat16 of a network in float32; it is frozen until `follow`."""

    def __init__(self, network: Any, device: torch.device | None = None) -> None:
        """Copy a network onto a device (default: its own), where its weights are never in float32."""
        copies: dict[int, Any] = {}
        for tensor in (*network.parameters(), *network.buffers()):
            kind = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
            moved = tensor.detach().to(device or tensor.device, kind, copy=True)
            parameter = isinstance(tensor, torch.nn.Parameter)
            copies[id(tensor)] = torch.nn.Parameter(moved, requires_grad=False) if parameter else moved
        self.network = copy.deepcopy(network, copies)
        self._call: Any = self.network
        self._weights: list[torch.Tensor] = []  # of the network, those that are trained
        self._copies: list[torch.Tensor] = []

    def __call__(self, sample: Any, timestep: Any, *others: Any, **named: Any) -> Any:
        """Return the network's answer in bfloat16; all inputs but the time are converted."""
        arguments, converted = _inputs((sample, timestep, *others), named)
        return self._call(*arguments, **converted)

    @contextmanager
    def converting(self) -> Iterator[None]:
        """Let `network` itself convert its inputs, as a pipeline calls it."""
        hook = self.network.register_forward_pre_hook(lambda _, *given: _inputs(*given), with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def computed_by(self, compiled: Any) -> "HalfCopy":
        """Let the compiled network compute in place of the network, and return self."""
        self._call = compiled
        return self

    def follow(self, network: Any) -> None:
        """Take gradients for the weights of the network that require them, and begin with their present values."""
        weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        for name, own in self.network.named_parameters():
            own.requires_grad_(name in weights)
        copies = dict(self.network.named_parameters())
        self._weights, self._copies = list(weights.values()), [copies[name] for name in weights]
        self.update()

    @torch.no_grad()
    def collect(self) -> None:
        """Add the copy's gradients of one backward pass to those of the network, in float32, and free them."""
        first: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])  # new gradients, and those of the copy
        later: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])  # gradients of earlier parts
        for weight, own in zip(self._weights, self._copies, strict=True):
            if own.grad is None:
                continue
            total, pairs = weight.grad, later
            if total is None:
                weight.grad = total = torch.empty_like(weight)
                pairs = first
            pairs[0].append(total)
            pairs[1].append(own.grad)
        if first[0]:
            torch._foreach_copy_(*first)
        if later[0]:
            torch._foreach_add_(*later)
        self.forget()

    def forget(self) -> None:
        """Free the copy's gradients, as of a backward pass that failed."""
        for own in self._copies:
            own.grad = None

    @torch.no_grad()
    def update(self) -> None:
        """Copy the network's trained weights into the copy."""
        if self._copies:
            torch._foreach_copy_(self._copies, self._weights)


def _inputs(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    sample, timestep, *others = arguments
    return (_half(sample), timestep, *map(_half, others)), {name: _half(value) for name, value in named.items()}


def _half(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _half(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_half(entry) for entry in value]
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(torch.bfloat16) if floating else value
