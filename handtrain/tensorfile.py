"""Small safetensors files that check themselves and appear by rename."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]


def write(path: Path, tensors: Tensors, about: Any) -> None:
    """Write tensors and a JSON value beside them; the file is whole or absent."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # One entry: safetensors writes several in an order that changes from process to process.
    metadata = {"hand1000": json.dumps({"about": about, "sha256": digest(tensors)})}
    try:
        partial.write_bytes(save(tensors, metadata=metadata))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
