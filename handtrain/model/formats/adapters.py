"""The adapters of a LoRA run, in a file next to its model; hand1000.json holds their hash."""

from pathlib import Path
from typing import Any

from handdata.errors import UserError
from handtrain import tensor_cache
from handtrain.model.base import Base
from handtrain.model.formats.header import metadata_of
from handtrain.model.formats.lora import Factors, adapters_of, named, read_lora, write_lora

ADAPTERS_FILE = "lora.safetensors"  # of a run folder


def write_adapters(file: Path, unet: Any, about: dict[str, Any], base: Base) -> dict[str, str]:
    """Write the adapters of a UNet in diffusers' format; return the entry of hand1000.json that names them."""
    adapters, trained = adapters_of(unet), base.backbone.TRAINED
    metadata = metadata_of(about, base.configs, file.parent.name, base.resolution, True)
    write_lora(file, adapters, "diffusers", trained, base.configs[trained], metadata)
    return {"adapters_sha256": _digest(adapters)}


def read_adapters(model: Path, about: dict[str, Any], network: str) -> Factors:
    """Return the adapters next to a model folder. Raises `UserError` if they are missing or another model's."""
    file, remedy = model.parent / ADAPTERS_FILE, "give --rank N to factor the model's difference to its base instead"
    try:
        adapters = read_lora(file, network)
    except (OSError, ValueError):
        raise UserError(f"{file} with the adapters of {model} is missing or damaged: {remedy}") from None
    if _digest(adapters) != about["adapters_sha256"]:
        raise UserError(f"{file} holds the adapters of another model than {model}: {remedy}")
    return adapters


def _digest(adapters: Factors) -> str:
    return tensor_cache.digest(named(adapters, "diffusers", "unet", {}))
