"""Safetensors files that check themselves, and a cache of them by the hash of everything they were made of."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.files import write_bytes

Tensors = dict[str, torch.Tensor]


def write(path: Path, tensors: Tensors, about: Any) -> None:
    """Write tensors and a JSON value beside them; the file is whole or absent."""
    from safetensors.torch import save

    # One entry: safetensors writes several in an order that changes from process to process.
    metadata = {"hand1000": json.dumps({"about": about, "sha256": digest(tensors)})}
    write_bytes(path, save(tensors, metadata=metadata))


def read(path: Path) -> tuple[Tensors, Any] | None:
    """Return the tensors and the JSON value of a file; None if it is missing, damaged or half-written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("hand1000", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (FileNotFoundError, SafetensorError):
        return None
    if metadata.get("sha256") != digest(tensors):
        return None
    return tensors, metadata["about"]


def digest(tensors: Tensors) -> str:
    """Return a hash of tensors, their names, types and shapes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@dataclass(frozen=True)
class TensorCache:
    """A folder of small safetensors files that check themselves: what is damaged or half-written counts as absent."""

    folder: Path

    def get(self, key: str) -> Tensors | None:
        """Return the tensors under a key, or None."""
        found = read(self._path(key))
        return found[0] if found and found[1] == key else None

    def put(self, key: str, tensors: Tensors) -> None:
        """Keep tensors under a key."""
        write(self._path(key), tensors, key)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def key_of(**parts: Any) -> str:
    """Return the hash of everything that decides an encoding."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
