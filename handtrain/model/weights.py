"""The safetensors files of a model's component: found, and checked by their headers before anything is loaded."""

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.readers import require_json

# Copies of the same weights in other number formats; the first that a folder has is used.
_VARIANTS = ("", ".fp32", ".fp16", ".bf16")
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
    "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
_FLOATS = ("F16", "BF16", "F32", "F64")
_COUNTED = "position_ids"  # 0, 1, 2, ...: older versions stored it with the weights
_LONGEST_HEADER = 100_000_000  # bytes, the limit of safetensors


class Unusable(Exception):
    """A component cannot be used. The message is a reason that continues a sentence about the component."""


@dataclass(frozen=True)
class Stored:
    """A tensor as a header describes it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """The place of a weight in a file that names and shapes it differently."""

    name: str  # of the file's tensor
    third: int | None = None  # 0, 1 or 2 of a tensor that joins query, key and value along its first dimension
    convolution: bool = False  # the file's tensor has the shape of a convolution of one pixel
    transposed: bool = False  # the file's tensor is the transposed matrix

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the weight's shape from that of the file's tensor."""
        if self.third is not None and stored and stored[0] % 3 == 0:
            return (stored[0] // 3, *stored[1:])
        if self.transposed:
            return stored[::-1]
        return stored[:2] if self.convolution and stored[2:] == (1, 1) else stored

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the weight from the file's tensor."""
        shape = self.shape(tuple(tensor.shape))
        if self.transposed:
            return tensor.T.contiguous()
        return (tensor if self.third is None else tensor.chunk(3)[self.third]).reshape(shape)


@dataclass(frozen=True)
class Weights:
    """The files that hold a component's weights, and the tensors that their headers describe."""

    files: tuple[Path, ...]
    tensors: dict[str, Stored]
    pieces: Mapping[str, Piece] | None = None  # by name, where the file names its tensors differently

    def load(self, canonical: Callable[[str], str]) -> dict[str, torch.Tensor]:
        """Return the floating-point tensors in float32 by their canonical names.

        Raises `Unusable` for a file that cannot be read and for values that are not finite.
        """
        from safetensors import SafetensorError, safe_open

        state = {}
        for path in self.files:
            try:
                with safe_open(path, framework="pt") as file:
                    own = {name: Piece(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                    for name, piece in (own if self.pieces is None else self.pieces).items():
                        if self.tensors[name].dtype in _FLOATS:
                            state[canonical(name)] = piece.of(file.get_tensor(piece.name)).to(torch.float32)
            except (OSError, SafetensorError) as error:
                raise Unusable(f"its file {path.name} cannot be read ({error})") from None
        for name, tensor in state.items():
            if not bool(torch.isfinite(tensor).all()):
                raise Unusable(f"its weight {name} has values that are not finite numbers: fetch the file again")
        return state


def find_weights(folder: Path, stem: str) -> Weights:
    """Return the weights of a component's folder, which are named `stem`.safetensors, in one file or several.

    Half-precision copies (.fp16, .bf16) are used without a whole one. Raises `Unusable` for missing, damaged and
    pickled weights.
    """
    for variant in _VARIANTS:
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return Weights((single,), read_header(single))
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            return _sharded(folder, index)
    pickled = any(folder.glob("*.bin")) if folder.is_dir() else False
    convert = f"handtrain export {shlex.quote(str(folder.parent))} --to diffusers --out NEW"
    reason = f": pickled weights (.bin) are not read, `{convert}` converts them" if pickled else ""
    raise Unusable(f"it has no {stem}.safetensors{reason}")


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name, from its header. Raises `Unusable` if the file is not whole."""
    header, room = _header(path)
    described = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return _checked(described, room, path.name)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata in a safetensors file's header. Raises `Unusable` if the file is not whole."""
    metadata = _header(path)[0].get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the JSON object at the beginning of a safetensors file, and the number of bytes behind it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise Unusable(f"its file {path.name} is a Git LFS pointer: run `git lfs pull` in the model's folder")
            if len(start) < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise Unusable(f"its file {path.name} is cut off or not in the safetensors format: fetch it again")
            header = json.loads(file.read(length))
    except OSError as error:
        raise Unusable(f"its file {path.name} cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise Unusable(f"its file {path.name} has a damaged header: fetch it again") from None
    return (header, size - 8 - length) if isinstance(header, dict) else _lies(path.name)


def _checked(header: dict[str, Any], room: int, file: str) -> dict[str, Stored]:
    """Return a header's tensors. The bytes that it names must fit the shapes and fill the file without a gap."""
    tensors, spans = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict):
            _lies(file)
        dtype, shape, span = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if dtype not in _BYTES or not _naturals(shape) or not _naturals(span) or len(span) != 2:
            _lies(file)
        if span[1] - span[0] != math.prod(shape) * _BYTES[dtype]:
            _lies(file)
        tensors[name] = Stored(dtype, tuple(shape))
        spans.append(tuple(span))
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            _lies(file)
        end = stop
    if end > room:
        raise Unusable(f"its file {file} is cut off ({end - room:,} bytes are missing): fetch it again")
    if end < room:
        _lies(file)
    return tensors


def _lies(file: str) -> Any:
    raise Unusable(f"its file {file} has a header that does not fit its content: fetch it again")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**48 for number in value)


def _sharded(folder: Path, index: Path) -> Weights:
    """Return the weights of several files that an index lists."""
    try:
        listed = require_json(index).get("weight_map")
    except UserError:
        raise Unusable(f"its file {index.name} is not JSON in UTF-8: fetch it again") from None
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise Unusable(f"its file {index.name} has no weight_map: fetch it again")
    files = sorted(set(listed.values()))
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise Unusable(f"its file {index.name} names {name[:80]!r}, which is not a file of the folder")
        if not (folder / name).is_file():
            raise Unusable(f"its file {name} is missing: fetch it again")
    headers = {name: read_header(folder / name) for name in files}
    tensors = {name: stored for header in headers.values() for name, stored in header.items()}
    if sum(map(len, headers.values())) != len(tensors):
        raise Unusable(f"its files {files[0]} and others hold the same weights twice")
    missing = [name for name, file in listed.items() if name not in headers[file]]
    if missing:
        raise Unusable(f"its file {listed[missing[0]]} lacks the weight {missing[0][:80]}: fetch it again")
    return Weights(tuple(folder / name for name in files), tensors)


def check_fit(module: torch.nn.Module, weights: Weights, canonical: Callable[[str], str], ignored: str) -> None:
    """Raise `Unusable` unless names, shapes and types of weights are those of a module (which may be on `meta`).

    `canonical` maps the names of all versions of a library to one; names that match the pattern `ignored` may be left
    over.
    """
    wanted = {canonical(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    stored = {canonical(name): entry for name, entry in weights.tensors.items()}
    for name, shape in wanted.items():
        if name.endswith(_COUNTED):
            continue
        if name not in stored:
            raise Unusable(f"its weights lack {name}, which its config.json requires")
        entry = stored[name]
        if entry.shape != shape:
            raise Unusable(
                f"its weight {name} has the shape {list(entry.shape)}, and its config.json requires {list(shape)}"
            )
        if entry.dtype not in _FLOATS:
            raise Unusable(f"its weight {name} is stored as {entry.dtype}: only floating-point weights are read")
    for name in stored:
        if name not in wanted and not name.endswith(_COUNTED) and not re.match(ignored, name):
            raise Unusable(f"its weights contain {name[:120]}, which its config.json does not describe")


def fill(module: torch.nn.Module, weights: Weights, canonical: Callable[[str], str]) -> None:
    """Replace the parameters of a module, which `check_fit` has accepted, by the stored ones in float32."""
    state = weights.load(canonical)
    names = {name: canonical(name) for name in module.state_dict()}
    fitting = {name: state[stored] for name, stored in names.items() if not name.endswith(_COUNTED)}
    module.load_state_dict(fitting, strict=False, assign=True)
