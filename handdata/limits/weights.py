"""Single files with the weights of a model, by their names: those that are read, and those that need a conversion."""

import shlex
from pathlib import Path

from handdata.errors import UserError

PICKLES = (".ckpt", ".bin", ".pt", ".pth")  # what torch.save writes


def require_safetensors(file: Path, option: str) -> Path:
    """Return a .safetensors file. Raises `UserError` for another kind, naming the command that converts a pickle."""
    if file.suffix == ".safetensors":
        return file
    if file.suffix in PICKLES:
        command = ["handtrain", "export", str(file), "--to", "single-file", "--out", f"{file.stem}.safetensors"]
        raise UserError(f"{option} {file} is a pickle, which could run code: convert it with `{shlex.join(command)}`")
    raise UserError(f"{option} {file} is neither a folder nor a .safetensors file: name one of them")
