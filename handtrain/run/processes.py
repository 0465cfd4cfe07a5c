"""Several processes that train one model (`accelerate launch`, torchrun): who is who, and what they tell each other.

Only the first process writes. What goes over the wire is gradients, losses, finished embeddings and, when a run
continues, the checkpoint; so the run folder may lie on a disk that only the first process sees.
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

_BUCKET = 2**24  # numbers that are added up in one go, 64 MiB in float32
_PATIENCE = timedelta(hours=6)  # the others wait while the first encodes images or writes a model


@dataclass(frozen=True)
class Processes:
    """One process among `count`. A single process waits for nobody and sends nothing."""

    rank: int = 0
    count: int = 1
    local: int = 0  # number on this machine

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's part of a batch of `count` images; it is empty where there are too few."""
        return slice(count * self.rank // self.count, count * (self.rank + 1) // self.count)

    def everyone(self, value: T) -> list[T]:
        """Return what each process gives, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def any(self, value: bool) -> bool:
        """Return whether it is so in any process."""
        return any(self.everyone(value))

    def told(self, do: Callable[[], T]) -> T:
        """Let the first process do something, and return what it returned; its `UserError` or `Unfinished` ends all."""
        if self.count == 1:
            return do()
        said: list[Any] = [None, None]
        if self.first:
            try:
                said = [do(), None]
            except (UserError, Unfinished) as error:
                said = [None, error]
        distributed.broadcast_object_list(said, src=0)
        if said[1] is not None:
            raise said[1]
        result: T = said[0]
        return result

    def in_turn(self, do: Callable[[], T]) -> T:
        """Let the first process do something and then the others, who find in a cache what it made."""
        made = [do()] if self.first else []
        self.everyone(None)
        return made[0] if made else do()

    def whole(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """Return the losses (count,) of a batch of which every process has its share."""
        if self.count == 1:
            return part
        whole = torch.zeros(count, dtype=torch.float64)
        whole[self.share(count)] = part.double().cpu()
        distributed.all_reduce(whole)
        return whole

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up the gradients of all processes; one without images has none, which counts as zeros."""
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
            parts = torch.split(flat, [one.numel() for one in bucket])
            for gradient, numbers in zip(bucket, parts, strict=True):
                gradient.copy_(numbers.view(gradient.shape))

    def spread(self, module: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
        """Give every process the first one's weights and optimiser state."""
        if self.count == 1:
            return
        for tensor in module.state_dict().values():
            _broadcast(tensor)
        for group in optimiser.param_groups if optimiser else ():
            for parameter in group["params"]:
                self._spread_state(optimiser.state[parameter], parameter)  # type: ignore[union-attr]

    def _spread_state(self, state: dict[str, Any], parameter: torch.Tensor) -> None:
        said = self.told(lambda: {key: _about(value) for key, value in state.items()})
        for key, about in said.items():
            if not isinstance(about, _Tensor):
                state[key] = about
                continue
            if not self.first:
                device = "cpu" if about.on_cpu else parameter.device
                like = about.shape == parameter.shape and not about.on_cpu
                state[key] = (
                    torch.empty_like(parameter, dtype=about.dtype)
                    if like
                    else torch.empty(about.shape, dtype=about.dtype, device=device)
                )
            _broadcast(state[key])


@dataclass(frozen=True)
class _Tensor:
    shape: torch.Size
    dtype: torch.dtype
    on_cpu: bool


def _about(value: Any) -> Any:
    return _Tensor(value.shape, value.dtype, value.device.type == "cpu") if isinstance(value, torch.Tensor) else value


@torch.no_grad()
def _broadcast(tensor: torch.Tensor) -> None:
    sent = tensor.detach().contiguous()  # a copy where the layout is channels_last
    distributed.broadcast(sent, src=0)
    tensor.copy_(sent)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that a launcher has started with this one; without a launcher there is one."""
    mine = launched()
    if mine.count == 1:
        yield mine
        return
    if not distributed.is_initialized():
        # Two ways side by side: gradients on GPUs go through NCCL, what lies on the CPU through Gloo.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield mine
    distributed.destroy_process_group()  # not after an error: the launcher then ends the others


def launched() -> Processes:
    """Return what the launcher's environment says, without joining anybody."""
    rank, count, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    return Processes(rank, count, local)


def own_device(name: str, processes: Processes) -> str:
    """Return the device of this process: each its own GPU. Raises `UserError` where there are not enough."""
    if processes.count == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if name not in ("auto", "cuda"):
        raise UserError(f"--device {name} is one GPU, and there are {processes.count} processes: leave it at auto")
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
