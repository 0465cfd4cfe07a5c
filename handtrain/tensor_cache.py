"""Safetensors files with checksums, and a cache of such files by the hash of all their inputs."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.files import write_bytes
from handtrain import seals

Tensors = dict[str, torch.Tensor]


def write(path: Path, tensors: Tensors, about: Any) -> None:
    """Write tensors and a JSON value to a file that is whole or absent."""
    from safetensors.torch import save

    # One entry: safetensors writes several in an order that changes from process to process.
    record = {"about": about, "sha256": digest(tensors), "about_sha256": seals.digest(about)}
    metadata = {"hand1000": json.dumps(record)}
    write_bytes(path, save(tensors, metadata=metadata))


def read(path: Path) -> tuple[Tensors, Any] | None:
    """Return the tensors and the JSON value of a file; None if it is missing, damaged or incomplete."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("hand1000", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.keys() - {"about_sha256"} != {"about", "sha256"}:
        return None
    about = record["about"]
    if record["sha256"] != digest(tensors) or record.get("about_sha256", seals.digest(about)) != seals.digest(about):
        return None
    return tensors, about


def digest(tensors: Tensors) -> str:
    """Return a hash of tensors, their names, types and shapes."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def fingerprint(module: torch.nn.Module) -> str:
    """Return a hash of a model's weights and their names."""
    return digest(module.state_dict())


@dataclass(frozen=True)
class TensorCache:
    """A folder of small safetensors files with checksums; damaged or incomplete files count as absent."""

    folder: Path

    def get(self, key: str) -> Tensors | None:
        """Return the tensors of a key, None without a valid file."""
        entry = read(self._path(key))
        return entry[0] if entry and entry[1] == key else None

    def put(self, key: str, tensors: Tensors) -> None:
        """Store tensors under a key."""
        write(self._path(key), tensors, key)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def key_of(**parts: Any) -> str:
    """Return a hash of the inputs that determine an encoding, as a key of the cache."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
