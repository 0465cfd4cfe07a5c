"""One number format for a whole model folder.

A base may hold the text encoder or the VAE in half precision. The UNet is trained in float32, and transformers and
diffusers load each part in the format of its file, so that a mixed folder cannot generate.
"""

import json
from pathlib import Path
from typing import Any

_HALVES = {"F16", "BF16"}  # as safetensors names them
_HALF_NAMES = ("float16", "bfloat16")


def to_float32(file: Path) -> None:
    """Convert a component's file in place: weights in half precision, and a configuration that names it."""
    if file.suffix == ".safetensors":
        _convert_weights(file)
    elif file.name == "config.json":
        _convert_config(file)


def _convert_weights(file: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as weights:  # type: ignore[no-untyped-call]
        names, metadata = list(weights.keys()), weights.metadata()
        if not any(weights.get_slice(name).get_dtype() in _HALVES for name in names):
            return
        tensors = {name: weights.get_tensor(name) for name in names}
    save_file({name: _float32(tensor) for name, tensor in tensors.items()}, file, metadata)


def _float32(tensor: Any) -> Any:
    return tensor.float() if tensor.is_floating_point() else tensor


def _convert_config(file: Path) -> None:
    config = json.loads(file.read_text(encoding="utf-8-sig"))
    converted = _without_halves(config)
    if converted != config:
        file.write_text(json.dumps(converted, indent=2) + "\n", encoding="utf-8")


def _without_halves(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_halves(entry, name) for name, entry in value.items()}
    return "float32" if key in ("dtype", "torch_dtype") and value in _HALF_NAMES else value
