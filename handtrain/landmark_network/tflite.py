"""TensorFlow Lite models as torch modules: the layers of MediaPipe's hand landmark network, read from its file.

The file is a FlatBuffer (schema: tensorflow/lite/schema/schema.fbs). Only the operations of that network are known. In
torch it runs in batches, on a GPU and with gradients, and its inner maps are readable.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ADD, _CONV, _DEPTHWISE, _DEQUANTIZE, _DENSE, _LOGISTIC, _MEAN = 0, 3, 4, 6, 9, 14, 40  # BuiltinOperator
_TYPES = {0: np.float32, 1: np.float16, 2: np.int32}  # TensorType
_ACTIVATIONS: dict[int, Any] = {0: lambda x: x, 1: F.relu, 3: F.relu6}  # ActivationFunctionType


@dataclass(frozen=True)
class Operation:
    """One operation of the graph; `weights` are the names of its constant inputs in the module."""

    code: int
    inputs: tuple[int, ...]
    output: int
    weights: tuple[str, ...]
    stride: int
    activation: int


class Network(nn.Module):
    """A TensorFlow Lite graph. Its weights are buffers, so that no optimiser moves them."""

    def __init__(self, data: bytes) -> None:
        """Read a model file's bytes. Raises `ValueError` for an operation that is not known here."""
        super().__init__()
        model = _Table.root(data)
        codes = [code.integer(3, "<i") or code.integer(0, "<b") for code in model.tables(1)]
        graph = model.tables(2)[0]
        buffers = model.tables(4)
        tensors = graph.tables(0)
        self.input, self.outputs = graph.integers(1)[0], graph.integers(2)
        constants: dict[int, Tensor] = {}
        for number, tensor in enumerate(tensors):
            raw = buffers[tensor.integer(2, "<I")].octets(0)
            if raw:
                values = np.frombuffer(raw, _TYPES[tensor.integer(1, "<b")]).reshape(tensor.integers(0))
                constants[number] = torch.from_numpy(values.astype(np.float32))
        self.operations: list[Operation] = []
        for operator in graph.tables(3):
            code, inputs = codes[operator.integer(0, "<I")], operator.integers(1)
            output = operator.integers(2)[0]
            if code == _DEQUANTIZE:
                constants[output] = constants[inputs[0]]
                continue
            self.operations.append(self._operation(code, inputs, output, operator, constants))

    def _operation(
        self, code: int, inputs: Sequence[int], output: int, operator: "_Table", constants: dict[int, Tensor]
    ) -> Operation:
        """Store an operation's weights in torch's order and return the operation."""
        options = operator.table(4)
        stride = options.integer(2, "<i") if options and code in (_CONV, _DEPTHWISE) else 1
        field = {_CONV: 3, _DEPTHWISE: 4, _ADD: 0, _DENSE: 0}.get(code)
        activation = options.integer(field, "<b") if options and field is not None else 0
        names = []
        if code in (_CONV, _DEPTHWISE, _DENSE):
            weight, bias = (constants[number] for number in inputs[1:3])
            order = {_CONV: (0, 3, 1, 2), _DEPTHWISE: (3, 0, 1, 2), _DENSE: (0, 1)}[code]
            for name, value in (("weight", weight.permute(order).contiguous()), ("bias", bias)):
                names.append(f"{name}_{output}")
                self.register_buffer(names[-1], value)
            inputs = inputs[:1]
        elif code == _MEAN:  # over rows and columns
            inputs = inputs[:1]
        elif code not in (_ADD, _LOGISTIC):
            raise ValueError(f"operation {code} of TensorFlow Lite is not known here")
        return Operation(code, tuple(inputs), output, tuple(names), stride, activation)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return all tensors by their number in the file, for images (b, 3, h, w) in 0 to 1."""
        known = {self.input: images}
        for step in self.operations:
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
                x, pad = _same(x, weights[0].shape[2], step.stride)
                kernel, bias = weights
                y = F.conv2d(x, kernel, bias, step.stride, pad, 1, groups)
            known[step.output] = _ACTIVATIONS[step.activation](y)
        return known


def _same(x: Tensor, kernel: int, stride: int) -> tuple[Tensor, int]:
    """Pad a square map with zeros as TensorFlow's SAME, the odd pixel at the end; return what the convolution pads."""
    size = x.shape[-1]
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    if total % 2 == 0:
        return x, total // 2
    return F.pad(x, [total // 2, total - total // 2] * 2), 0


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
