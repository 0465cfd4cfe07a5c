"""Files that torch.save wrote, read as weights alone: no code of the file runs."""

import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

# of damaged files; those of the format before torch 1.6, which is not a zip archive, raise nearly anything
_DAMAGED = (
    UnpicklingError, EOFError, ValueError, RuntimeError, LookupError, AssertionError, AttributeError, TypeError,
    struct.error,
)  # fmt: skip


def read_pickled(file: Path) -> Any:
    """Return the content on the CPU. Raises `ValueError` with a reason if it is damaged or not weights alone."""
    try:
        # torch cannot map the format before 1.6 into memory
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(reason[:120] or type(error).__name__) from None
