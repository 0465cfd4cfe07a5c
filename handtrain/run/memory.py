"""The bytes of tensors that training allocates, counted operation by operation on `meta`: shapes without values."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from handtrain.data.crops import window
from handtrain.method.conditioning import POSE_NUMBERS, PoseLayers, attach, make_pose_layers
from handtrain.method.half import HalfCopy
from handtrain.method.prediction import Form, Inputs, Texts, stacked
from handtrain.method.unet import add_adapters, require_grad
from handtrain.model.base import Base, empty_denoiser

_BLOCK = 512  # bytes: torch's allocator rounds every tensor up to a multiple of it
_ATTENTION: Any = F.scaled_dot_product_attention
# Of torch's lists for autocast on CUDA: the functions that compute in bfloat16, and those that compute in float32
_LOW = {F.linear, F.conv2d, torch.matmul, torch.Tensor.matmul, torch.bmm, torch.baddbmm, torch.addmm, _ATTENTION}
_FULL = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, torch.Tensor.softmax}


@dataclass(frozen=True)
class Use:
    """A use of a base's networks, with all that its memory depends on except the number of images."""

    # steps of Stages II and III; a prediction without gradients; the VAE and the text encoders
    of: Literal["stage2", "stage3", "predict", "encode", "decode", "texts"]
    precision: str = "fp32"
    checkpointing: bool = False
    rank: int = 0  # of adapters; 0: none
    routes: tuple[str, ...] = ()  # of pose layers
    later: bool = False  # a further part of a batch: the gradients of the parts before it are in memory


@dataclass(frozen=True)
class Record:
    """The bytes of living tensors after every operation (n,), and whether the operation is one of a backward pass."""

    bytes: np.ndarray
    backward: np.ndarray


@dataclass(frozen=True)
class Weights:
    """The numbers of elements of the network that training changes, and of its pose layers."""

    frozen: int  # below adapters
    trained: tuple[int, ...]  # by tensor
    layers: tuple[int, ...]  # by tensor


@dataclass
class Memory:
    """The peaks of a base's uses, each counted once."""

    base: Base
    _records: dict[tuple[Use, int], Record] = field(default_factory=dict)
    _weights: dict[tuple[int, tuple[str, ...]], Weights] = field(default_factory=dict)

    def peak(self, use: Use, images: int) -> int:
        """Return the most bytes that a use allocates at once for a number of images, besides weights and moments."""
        return int(self._record(use, images).bytes.max())

    def activations(self, use: Use, images: int) -> int:
        """Return the most bytes in the forward pass of a use."""
        record = self._record(use, images)
        return int(record.bytes[: record.backward.argmax() or len(record.bytes)].max())

    def weights(self, rank: int, routes: tuple[str, ...]) -> Weights:
        """Return the sizes of the trained network's tensors, with adapters of a rank and pose layers."""
        if (rank, routes) not in self._weights:
            network, layers = _denoiser(self.base, Use("stage3", rank=rank, routes=routes))
            require_grad(network)
            sizes = [[p.numel() for p in network.parameters() if p.requires_grad == trained] for trained in (0, 1)]
            of_layers = [parameter.numel() for parameter in layers.parameters()] if layers else []
            self._weights[rank, routes] = Weights(sum(sizes[0]), tuple(sizes[1]), tuple(of_layers))
        return self._weights[rank, routes]

    def frozen(self, *parts: str) -> int:
        """Return the bytes of networks in float32, by name."""
        networks, configs = self.base.backbone.NETWORKS, self.base.configs
        return sum(4 * weight.numel() for part in parts for weight in networks[part].empty(configs[part]).parameters())

    def _record(self, use: Use, images: int) -> Record:
        """Return the record of a use for a number of images.

        In a network of batches the operations are the same for any number of images from two on, and every one adds a
        number of bytes, and a number for each image: the records of two and three images give both. (One image saves a
        few copies.) A network of lists, as Z-Image's, has operations for each image, and is counted for each number.
        """
        two, three = (self._counted(use, count) for count in (2, 3))
        if len(two.bytes) != len(three.bytes):
            return self._counted(use, images)
        return Record(two.bytes + (three.bytes - two.bytes) * (images - 2), two.backward)

    def _counted(self, use: Use, images: int) -> Record:
        if (use, images) not in self._records:
            self._records[use, images] = _recorded(self.base, use, images)
        return self._records[use, images]


def empty_inputs(base: Base) -> tuple[torch.Tensor, Texts, Inputs]:
    """Return a latent (1, c, h, w), an encoded text and the inputs from one image, all on `meta`."""
    backbone, side = base.backbone, base.resolution
    with torch.device("meta"):
        latent = torch.empty(1, base.configs["vae"]["latent_channels"], base.latent_side, base.latent_side)
        encoders = [backbone.NETWORKS[part].empty(base.configs[part]) for part in backbone.TOKENIZERS]
        text = stacked([backbone.encode(encoders, backbone.blank_ids(base.sizes.tokens))])
    images = backbone.image_inputs([(side, side)], [window(side, side, side)])
    return latent, text, {name: tensor.to("meta") for name, tensor in images.items()}


def allocated(compute: Callable[[], object], existing: Sequence[torch.Tensor], times: int = 1) -> "Record":
    """Return the bytes of living tensors on `meta` after every operation of a computation, besides existing tensors.

    A computation that runs several times is recorded the last time.
    """
    recorder = _Recorder(existing)
    with recorder, _Kernels():
        for _ in range(times):
            recorder.bytes, recorder.backward = [], []
            compute()
    return Record(np.array(recorder.bytes), np.array(recorder.backward))


def step_of(
    network: Any, form: Form, latents: torch.Tensor, texts: torch.Tensor, more: Inputs, half: HalfCopy | None,
    precision: str = "fp32",
) -> None:  # fmt: skip
    """Compute the loss of latents (b, c, h, w) and texts (b, tokens, width) and its gradients, as training does."""
    times = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)
    kernels = _Kernels(autocast=precision == "bf16-autocast")
    with kernels:
        arguments, named = form.arguments(latents, times, texts, more)
        predicted = form.prediction((half or network)(*arguments, **named))  # (b, c, h, w)
        losses = torch.mean((predicted.float() - latents) ** 2, dim=(1, 2, 3))  # (b,)
        del predicted
    kernels.converted.clear()
    if losses.requires_grad:
        with kernels:  # which gradient checkpointing needs too
            _backward(losses.sum())
        if half:
            half.collect()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the bytes of living tensors after every operation, from the births and deaths of their storages."""

    def __init__(self, existing: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: list[int] = []
        self.backward: list[bool] = []
        self._living = 0
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in (result,) if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._known:
                    size = -(-storage.nbytes() // _BLOCK) * _BLOCK
                    self._known[key] = weakref.finalize(storage, self._freed, key, size)
                    self._living += size
        self.bytes.append(self._living)
        self.backward.append(_in_backward())
        return result

    def _freed(self, key: int, size: int) -> None:
        self._living -= size
        self._known.pop(key, None)


class _Kernels(TorchFunctionMode):
    """Computes on `meta` with the kernels that a GPU has: fused attention, and the types of autocast to bfloat16.

    Fused attention keeps queries, keys, values, its result and a number per query, and no matrix of all pairs.
    """

    def __init__(self, autocast: bool = False) -> None:
        super().__init__()
        self._autocast = autocast
        self.converted: dict[int, torch.Tensor] = {}  # autocast converts a trained weight once per forward pass

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        change: Any = self._low if func in _LOW else _full if func in _FULL else None
        if self._autocast and change:
            args = tuple(map(change, args))
            kwargs = {name: change(value) for name, value in kwargs.items()}
        if func is _ATTENTION:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            inputs = (named["query"], named["key"], named["value"])
            return torch.ops.aten._scaled_dot_product_flash_attention(*inputs)[0]
        return func(*args, **kwargs)

    def _low(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad) or _in_backward():
            return value.to(torch.bfloat16)
        if id(value) not in self.converted:
            self.converted[id(value)] = value.to(torch.bfloat16)
        return self.converted[id(value)]


def _backward(loss: torch.Tensor) -> None:
    """Compute gradients. `torch.autograd.backward` would do so outside of the modes of torch's functions."""
    engine: Any = torch.autograd.Variable._execution_engine  # type: ignore[attr-defined]
    engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, True)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() >= 0


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _recorded(base: Base, use: Use, images: int) -> Record:
    """Return the bytes of a use, besides weights and moments."""
    if use.of in ("encode", "decode", "texts"):
        return _without_denoiser(base, use, images)
    network, layers = _denoiser(base, use)
    half = HalfCopy(network) if use.precision == "bf16" else None
    if layers:
        layers.poses = torch.empty(images, POSE_NUMBERS, device="meta")
        for each in (network, half.network) if half else (network,):
            attach(each, layers)
    if use.of == "stage3":
        require_grad(network)
        if half:
            half.follow(network)
    latent, text, more = empty_inputs(base)
    latents = torch.empty(images, *latent.shape[1:], device="meta")
    texts = torch.empty(images, *text.embedding.shape[1:], device="meta", requires_grad=use.of == "stage2")
    inputs = {name: row.expand(images, *row.shape[1:]) for name, row in {**text.more, **more}.items()}
    modules = [network, *([half.network] if half else []), *([layers] if layers else [])]
    weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    def compute() -> None:
        with torch.set_grad_enabled(use.of != "predict"):
            step_of(network, base.backbone.FORM, latents, texts, inputs, half, use.precision)

    return allocated(compute, [*weights, latents, texts, *inputs.values()], times=2 if use.later else 1)


def _denoiser(base: Base, use: Use) -> tuple[Any, PoseLayers | None]:
    """Return the frozen network on `meta`, and the pose layers that are to be attached to it."""
    network = empty_denoiser(base).train()
    if use.checkpointing:
        network.enable_gradient_checkpointing()
    with torch.device("meta"):
        if use.rank:
            add_adapters(network, use.rank, seed=0)
        layers = make_pose_layers(network, use.routes) if use.routes else None
    return network.requires_grad_(False), layers


def _without_denoiser(base: Base, use: Use, images: int) -> Record:
    """Return the bytes of the VAE, or of the text encoders."""
    backbone, side = base.backbone, base.resolution
    parts = list(backbone.TOKENIZERS) if use.of == "texts" else ["vae"]
    networks = [backbone.NETWORKS[part].empty(base.configs[part]).eval() for part in parts]
    shape = (images, base.configs["vae"]["latent_channels"], base.latent_side, base.latent_side)
    pixels, latents = torch.empty(images, 3, side, side, device="meta"), torch.empty(shape, device="meta")

    def compute() -> None:
        with torch.no_grad():
            if use.of == "texts":
                backbone.encode(networks, backbone.blank_ids(base.sizes.tokens))
            elif use.of == "encode":
                networks[0].encode(pixels)
            else:
                networks[0].decode(latents)

    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    return allocated(compute, [*weights, pixels, latents])
