"""Checkpoints: complete or absent, checked by sha256, the newest two kept.

A checkpoint is a folder of safetensors pieces and `checkpoint.json`, which holds the run's place and the pieces'
hashes. It is written beside its final name and appears by rename.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PIECE_BYTES = 256 * 2**20  # a piece is held in memory once more while it is written
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files are what their hashes say."""

    folder: Path
    state: dict[str, Any]
    pieces: tuple[str, ...]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors by name, one piece in memory at a time."""
        from safetensors.torch import load_file

        for piece in self.pieces:
            yield from load_file(self.folder / piece).items()


def save(folder: Path, name: str, tensors: Iterable[tuple[str, torch.Tensor]], state: dict[str, Any]) -> None:
    """Write the checkpoint `folder/name`, then remove all but the newest two. Names must sort by age."""
    from safetensors.torch import save as to_bytes

    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    hashes = {}
    for number, piece in enumerate(_pieces(tensors)):
        data = to_bytes(piece)
        file = f"{number:05d}.safetensors"
        hashes[file] = hashlib.sha256(data).hexdigest()
        _write(partial / file, data)
    _write(partial / "checkpoint.json", json.dumps({"state": state, "sha256": hashes}, indent=1).encode())
    shutil.rmtree(folder / name, ignore_errors=True)  # a damaged one that was passed over
    partial.rename(folder / name)
    _sync_folder(folder)
    for old in _names(folder)[KEPT:]:
        shutil.rmtree(folder / old)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and the names of newer ones that are damaged."""
    damaged: list[str] = []
    for name in _names(folder):
        found = _read(folder / name)
        if found:
            return found, damaged
        damaged.append(name)
    return None, damaged


def remove_partial(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for partial in folder.glob(".*.partial"):
        shutil.rmtree(partial)


def training_state(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what is trained of a model as `model/NAME`, and its optimiser's tensors as `optimiser/KEY/NAME`."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in trained.items():
        yield f"model/{name}", parameter.detach()
    for name, parameter in trained.items() if optimiser else ():
        for key, value in optimiser.state[parameter].items() if optimiser else ():
            yield f"optimiser/{key}/{name}", torch.as_tensor(value)


def restore(checkpoint: Checkpoint, model: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
    """Put a checkpoint's tensors back where `training_state` found them."""
    weights, parameters = model.state_dict(), dict(model.named_parameters())
    for name, tensor in checkpoint.tensors():
        kind, _, rest = name.partition("/")
        if kind == "model":
            weights[rest].copy_(tensor)
        else:
            assert optimiser is not None, f"{checkpoint.folder} holds an optimiser's state"
            key, _, parameter_name = rest.partition("/")
            optimiser.state[parameters[parameter_name]][key] = _state(
                key, tensor, parameters[parameter_name], optimiser
            )


def _state(key: str, tensor: torch.Tensor, parameter: torch.Tensor, optimiser: torch.optim.Optimizer) -> Any:
    if key == "step":
        if not tensor.is_floating_point():
            return int(tensor)  # the 8-bit optimiser's
        return tensor.to(parameter.device) if optimiser.defaults.get("fused") else tensor  # Adam's is on the CPU
    if tensor.shape == parameter.shape:  # in the layout of the weights, as the optimiser made it
        return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
    return tensor.to(parameter.device)


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if not path.name.startswith(".")), reverse=True)


def _read(path: Path) -> Checkpoint | None:
    try:
        record = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
        for file, sha256 in record["sha256"].items():
            with (path / file).open("rb") as data:
                if hashlib.file_digest(data, "sha256").hexdigest() != sha256:
                    return None
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return Checkpoint(path, record["state"], tuple(record["sha256"]))


def _pieces(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    piece: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if piece and size + tensor.nbytes > PIECE_BYTES:
            yield piece
            piece, size = {}, 0
        piece[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    if piece:
        yield piece


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
