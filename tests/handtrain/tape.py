"""A stand-in for a CUDA graph on a CPU: torch's operations of one computation, run again on the same tensors.

As a graph, it repeats no line of Python: a number that is not in a tensor keeps the value that it had in the capture.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from handtrain.graphs import Context

_ATEN: Any = torch.ops.aten
# A graph can neither wait for a number of the device nor copy one from Python
_FORBIDDEN = {
    _ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.masked_select.default, _ATEN.lift_fresh.default,
}  # fmt: skip


def captured(
    compute: Callable[[], torch.Tensor], without_effect: Context, fixed: Context, device: torch.device
) -> Callable[[], torch.Tensor]:
    """Do what `handtrain.graphs.captured` does, on a CPU, where one step before the capture is enough."""
    with without_effect():
        compute()
    tape = Tape()
    with fixed(), tape:
        result = compute()
    tape.undo()

    def replay() -> torch.Tensor:
        tape.replay()
        return result

    return replay


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations inside the block with the tensors that they read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._own: set[int] = set()  # storages that began inside the block
        self._before: dict[int, tuple[Any, Any]] = {}  # others that were written, and their bytes before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert func not in _FORBIDDEN, f"no CUDA graph can contain {func}"
        for tensor in _written(func, args, kwargs):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._own | self._before.keys():
                self._before[storage._cdata] = storage, storage.clone()
        result = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, result))
        if not _aliases(func):
            self._own |= {tensor.untyped_storage()._cdata for tensor in _tensors(result)}
        return result

    def undo(self) -> None:
        """Put back the values from before the block: a capture computes nothing."""
        for storage, before in self._before.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        """Run the operations again."""
        for func, args, kwargs, result in self._calls:
            again = func(*args, **kwargs)
            if not _aliases(func):
                for tensor, value in zip(_tensors(result), _tensors(again), strict=True):
                    tensor.copy_(value)


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    changed = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return _tensors([given[name] for name in changed if name in given])


def _aliases(func: Any) -> bool:
    """Return whether the results of an operation are views of its inputs, or these themselves."""
    return any(value.alias_info is not None for value in func._schema.returns)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
