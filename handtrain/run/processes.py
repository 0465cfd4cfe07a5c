"""Several processes that train one model (`accelerate launch`, torchrun): their ranks and their communication.

Only the first process writes. Gradients, losses, finished embeddings and, when a run is resumed, the checkpoint are
sent; so the run folder may be on a disk that only the first process can read.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from handdata.errors import Unfinished, UserError

T = TypeVar("T")

_BUCKET = 2**24  # numbers per all-reduce, 64 MiB in float32
_TIMEOUT = timedelta(hours=6)  # the others wait while the first encodes images or writes a model


@dataclass(frozen=True)
class Processes:
    """One process of `count`. A single process neither waits nor sends."""

    rank: int = 0
    count: int = 1
    local: int = 0  # rank on this machine

    @property
    def first(self) -> bool:
        """Whether this is the first process, which writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's slice of a batch of `count` images; it may be empty."""
        return slice(count * self.rank // self.count, count * (self.rank + 1) // self.count)

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process."""
        return any(self.all_gather(value))

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process and return its result in every process.

        Its `UserError` or `Unfinished` is raised in every process.
        """
        if self.count == 1:
            return function()
        outcome: list[Any] = [None, None]  # result, error
        if self.first:
            try:
                outcome[0] = function()
            except (UserError, Unfinished) as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def first_then_rest(self, function: Callable[[], T]) -> T:
        """Call a function in the first process, then in the others, which read its results from a cache."""
        results = [function()] if self.first else []
        self.all_gather(None)
        return results[0] if results else function()

    def gather_losses(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """Return the losses (count,) of a batch from every process's share."""
        if self.count == 1:
            return part
        whole = torch.zeros(count, dtype=torch.float64)
        whole[self.share(count)] = part.double().cpu()
        distributed.all_reduce(whole)
        return whole

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum the gradients of all processes; missing gradients, of a process without images, count as zeros."""
        if self.count == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            distributed.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, numbers in zip(bucket, parts, strict=True):
                gradient.copy_(numbers.view(gradient.shape))

    def broadcast(self, module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Copy the first process's trained weights and optimizer state to all processes."""
        if self.count == 1:
            return
        for weight in module.parameters():
            if weight.requires_grad:
                _broadcast(weight.data)
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                self._broadcast_state(optimiser.state[parameter], parameter)

    def _broadcast_state(self, state: dict[str, Any], parameter: torch.Tensor) -> None:
        entries = self.on_first(lambda: {key: _layout(value) for key, value in state.items()})
        for key, entry in entries.items():
            if not isinstance(entry, _Layout):
                state[key] = entry
                continue
            if not self.first:
                device = "cpu" if entry.on_cpu else parameter.device
                state[key] = torch.empty(entry.shape, dtype=entry.dtype, device=device)
                if entry.shape == parameter.shape and not entry.on_cpu:  # in the layout of the weights
                    state[key] = torch.empty_like(parameter, dtype=entry.dtype)
            _broadcast(state[key])


@dataclass(frozen=True)
class _Layout:
    shape: torch.Size
    dtype: torch.dtype
    on_cpu: bool


def _layout(value: Any) -> Any:
    return _Layout(value.shape, value.dtype, value.device.type == "cpu") if isinstance(value, torch.Tensor) else value


@torch.no_grad()
def _broadcast(tensor: torch.Tensor) -> None:
    sent = tensor.detach().contiguous()  # a copy where the layout is channels_last
    distributed.broadcast(sent, src=0)
    tensor.copy_(sent)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that a launcher started together with this one; without a launcher there is one process."""
    processes = launched()
    if processes.count == 1:
        yield processes
        return
    if not distributed.is_initialized():
        # Gradients on GPUs go through NCCL, tensors on the CPU through Gloo.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    yield processes
    distributed.destroy_process_group()  # not after an error: the launcher then ends the others


def launched() -> Processes:
    """Return this process as the launcher's environment variables describe it, without joining the others."""
    rank, count, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    return Processes(rank, count, local)


def own_device(name: str, processes: Processes) -> str:
    """Return the device of this process: each has its own GPU. Raises `UserError` if there are too few GPUs."""
    if processes.count == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if name not in ("auto", "cuda"):
        raise UserError(f"--device {name} is one GPU for {processes.count} processes: leave it at auto")
    if processes.local >= torch.cuda.device_count():
        raise UserError(
            f"there are more processes than GPUs ({torch.cuda.device_count()}) on this machine: "
            "start as many as there are GPUs (--num_processes of accelerate launch)"
        )
    torch.cuda.set_device(processes.local)
    return f"cuda:{processes.local}"


def _buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > _BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
