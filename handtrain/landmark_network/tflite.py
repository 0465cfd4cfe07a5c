"""TensorFlow Lite models as torch modules: the layers of MediaPipe's hand landmark network, read from its file.

The file is a FlatBuffer (schema: tensorflow/lite/schema/schema.fbs). Only the operations of that network are known. In
torch it runs in batches, on a GPU and with gradients, and its inner maps are readable.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ADD, _CONV, _DEPTHWISE, _DEQUANTIZE, _DENSE, _LOGISTIC, _MEAN = 0, 3, 4, 6, 9, 14, 40  # BuiltinOperator
_TYPES = {0: np.float32, 1: np.float16, 2: np.int32}  # TensorType
_ACTIVATIONS: dict[int, Any] = {  # ActivationFunctionType; on the output of a layer, which nothing else reads
    0: lambda x: x,
    1: lambda x: F.relu(x, inplace=True),
    3: lambda x: F.relu6(x, inplace=True),
}


@dataclass(frozen=True)
class Operation:
    """One operation of the graph; `weights` are the names of its constant inputs in the module."""

    code: int
    inputs: tuple[int, ...]
    output: int
    weights: tuple[str, ...]
    stride: int
    pad: int  # zeros at each end of rows and columns
    activation: int


class Network(nn.Module):
    """A TensorFlow Lite graph. Its weights are buffers, so that no optimiser moves them."""

    def __init__(self, data: bytes, wanted: Iterable[int]) -> None:
        """Read a model file's bytes; `wanted` are the numbers of the tensors that a call returns.

        Raises `ValueError` for an operation that is not known here.
        """
        super().__init__()
        model = _Table.root(data)
        codes = [code.integer(3, "<i") or code.integer(0, "<b") for code in model.tables(1)]
        graph = model.tables(2)[0]
        buffers = model.tables(4)
        tensors = graph.tables(0)
        self.input, self.wanted = graph.integers(1)[0], tuple(wanted)
        shapes = [tensor.integers(0) for tensor in tensors]  # of maps: 1, rows, columns, channels
        constants: dict[int, Tensor] = {}
        for number, tensor in enumerate(tensors):
            raw = buffers[tensor.integer(2, "<I")].octets(0)
            if raw:
                values = np.frombuffer(raw, _TYPES[tensor.integer(1, "<b")]).reshape(shapes[number])
                constants[number] = torch.from_numpy(values.astype(np.float32))
        self.operations: list[Operation] = []
        for operator in graph.tables(3):
            code, inputs = codes[operator.integer(0, "<I")], operator.integers(1)
            output = operator.integers(2)[0]
            if code == _DEQUANTIZE:
                constants[output] = constants[inputs[0]]
                continue
            size = shapes[inputs[0]][1] if code in (_CONV, _DEPTHWISE) else 0
            self.operations.append(self._operation(code, inputs, output, size, operator, constants))
        self._last = _last_readers(self.operations, self.wanted)

    def _operation(
        self, code: int, inputs: Sequence[int], output: int, size: int, operator: "_Table", constants: dict[int, Tensor]
    ) -> Operation:
        """Store an operation's weights in torch's order and return the operation; `size` is its map's side."""
        options = operator.table(4)
        stride = options.integer(2, "<i") if options and code in (_CONV, _DEPTHWISE) else 1
        field = {_CONV: 3, _DEPTHWISE: 4, _ADD: 0, _DENSE: 0}.get(code)
        activation = options.integer(field, "<b") if options and field is not None else 0
        names, pad = [], 0
        if code in (_CONV, _DEPTHWISE, _DENSE):
            weight, bias = (constants[number] for number in inputs[1:3])
            order = {_CONV: (0, 3, 1, 2), _DEPTHWISE: (3, 0, 1, 2), _DENSE: (0, 1)}[code]
            weight = weight.permute(order).contiguous()
            if size:
                weight, pad = _same(weight, stride, size)
            for name, value in (("weight", weight), ("bias", bias)):
                names.append(f"{name}_{output}")
                self.register_buffer(names[-1], value)
            inputs = inputs[:1]
        elif code == _MEAN:  # over rows and columns
            inputs = inputs[:1]
        elif code not in (_ADD, _LOGISTIC):
            raise ValueError(f"operation {code} of TensorFlow Lite is not known here")
        return Operation(code, tuple(inputs), output, tuple(names), stride, pad, activation)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return the wanted tensors by number, for images (b, 3, h, w) in 0 to 1 of the size that the file states."""
        known = {self.input: images}
        for step, read in zip(self.operations, self._last, strict=True):
            x = known[step.inputs[0]]
            weights = [getattr(self, name) for name in step.weights]
            if step.code == _ADD:
                y = x + known[step.inputs[1]]
            elif step.code == _MEAN:
                y = x.mean((2, 3))
            elif step.code == _LOGISTIC:
                y = x.sigmoid()
            elif step.code == _DENSE:
                y = F.linear(x, *weights)
            else:
                groups = x.shape[1] if step.code == _DEPTHWISE else 1
                kernel, bias = weights
                y = F.conv2d(x, kernel, bias, step.stride, step.pad, 1, groups)
            known[step.output] = _ACTIVATIONS[step.activation](y)
            for number in read:  # eight views have 202 MB of maps, whose fresh memory took a third of the time
                del known[number]
        return {number: known[number] for number in self.wanted}


def _last_readers(operations: Sequence[Operation], wanted: Iterable[int]) -> list[list[int]]:
    """Return, for every operation, the tensors that no later one reads and that are not wanted."""
    last = {number: place for place, step in enumerate(operations) for number in step.inputs}
    return [
        [number for number in last if last[number] == place and number not in wanted]
        for place in range(len(operations))
    ]


def _same(weight: Tensor, stride: int, size: int) -> tuple[Tensor, int]:
    """Return the kernel and the padding by which a convolution pads square maps of a size as TensorFlow's SAME.

    TensorFlow puts an odd pixel of padding at the end. Then the kernel gets a row and a column of zeros at its start,
    and both ends one pixel more: the sums are the same, without a padded copy of the map.
    """
    kernel = weight.shape[-1]
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    if total % 2 == 0:
        return weight, total // 2
    return F.pad(weight, [1, 0, 1, 0]), total // 2 + 1


class _Table:
    """A table of a FlatBuffer: fields by number, each at an offset that the table's vtable gives."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place
        self.vtable = place - self._read("<i", place)
        self.fields = (self._read("<H", self.vtable) - 4) // 2

    @classmethod
    def root(cls, data: bytes) -> "_Table":
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _read(self, form: str, place: int) -> int:
        return int(struct.unpack_from(form, self.data, place)[0])

    def _field(self, number: int) -> int:
        """Return where a field is stored, 0 for one that has its default."""
        offset = self._read("<H", self.vtable + 4 + 2 * number) if number < self.fields else 0
        return self.place + offset if offset else 0

    def integer(self, number: int, form: str) -> int:
        place = self._field(number)
        return self._read(form, place) if place else 0

    def table(self, number: int) -> "_Table | None":
        place = self._field(number)
        return _Table(self.data, place + self._read("<I", place)) if place else None

    def _vector(self, number: int) -> tuple[int, int]:
        """Return the place of a vector's first element and their number."""
        place = self._field(number)
        if not place:
            return 0, 0
        start = place + self._read("<I", place)
        return start + 4, self._read("<I", start)

    def tables(self, number: int) -> list["_Table"]:
        start, count = self._vector(number)
        return [_Table(self.data, p + self._read("<I", p)) for p in range(start, start + 4 * count, 4)]

    def integers(self, number: int) -> list[int]:
        start, count = self._vector(number)
        return list(struct.unpack_from(f"<{count}i", self.data, start))

    def octets(self, number: int) -> bytes:
        start, count = self._vector(number)
        return self.data[start : start + count]
