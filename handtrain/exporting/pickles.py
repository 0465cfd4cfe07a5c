"""Convert weights that torch.save wrote to safetensors, read as weights alone: no code of the file runs."""

import shutil
from pathlib import Path
from typing import Any

import torch

from handdata.errors import UserError
from handdata.files import whole_file, whole_folder
from handdata.limits.weights import PICKLES
from handtrain.model.base import BACKBONES
from handtrain.model.formats.pickled import read_pickled

_PARTS = sorted({part for backbone in BACKBONES.values() for part in backbone.NETWORKS})
_STEMS = {"pytorch_model": "model", "diffusion_pytorch_model": "diffusion_pytorch_model"}  # pickled and as safetensors
_COPIES = (".fp16", ".bf16", ".non_ema")  # in names of copies of the same weights


def is_pickled(model: Path) -> bool:
    """Return whether a model is a pickle, or a diffusers folder with a network that is stored only as one."""
    if model.is_file():
        return model.suffix in PICKLES
    return any(any((model / part).glob("*.bin")) and not _has_safetensors(model / part) for part in _PARTS)


def convert_file(file: Path, out: Path) -> None:
    """Write the tensors of a checkpoint to a .safetensors file, under their own names."""
    from safetensors.torch import save_file

    content = _load(file)
    nested = content.get("state_dict")
    tensors = _tensors(nested if isinstance(nested, dict) else content)
    if not tensors:
        raise UserError(f"MODEL {file} holds no tensors by name: name a checkpoint of a Stable Diffusion")
    with whole_file(out) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})


def convert_folder(folder: Path, out: Path) -> None:
    """Write a diffusers folder whose components have their weights as safetensors, and everything else as it is."""
    from safetensors.torch import save_file

    with whole_folder(out) as partial:
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            if source.suffix in PICKLES or source.name.endswith(".bin.index.json"):
                continue
            target = partial / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        for part in sorted({path.parent for path in folder.glob("*/*.bin")}):
            if _has_safetensors(part):
                continue
            for stem, new in _STEMS.items():
                files = sorted(part.glob(f"{stem}*.bin"))
                whole = [file for file in files if not any(copy in file.name for copy in _COPIES)] or files
                tensors = {name: tensor for file in whole for name, tensor in _tensors(_load(file)).items()}
                if tensors:
                    (partial / part.name).mkdir(exist_ok=True)
                    save_file(tensors, partial / part.name / f"{new}.safetensors", metadata={"format": "pt"})


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _load(file: Path) -> dict[str, Any]:
    """Return a checkpoint's content. Raises `UserError` if it holds more than weights."""
    try:
        content = read_pickled(file)
    except ValueError as error:
        raise UserError(
            f"MODEL {file} cannot be read as weights alone ({error}): convert it where its author is trusted"
        ) from None
    return content if isinstance(content, dict) else {}


def _tensors(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, each with its own memory: safetensors refuses shared ones."""
    found = {name: value for name, value in content.items() if isinstance(name, str) and torch.is_tensor(value)}
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}
