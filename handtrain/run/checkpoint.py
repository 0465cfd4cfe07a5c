"""Checkpoints: complete or absent, verified by sha256, the newest two kept.

A checkpoint is a folder of safetensors pieces and `checkpoint.json`, which contains the run's state, the pieces' hashes
and a hash of itself. It appears by rename.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handdata.files import sha256_of, whole_folder, write_bytes, write_json
from handdata.machine import free_memory
from handdata.readers import read_json
from handtrain.seals import SEAL, intact, sealed

PIECE_BYTES = 256 * 2**20  # a piece is in memory twice while it is written
KEPT = 2
COPY_ROOM = 1.5  # times its size has to be free for a copy of a checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files match their hashes."""

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

    with whole_folder(folder / name) as partial:  # replaces a damaged checkpoint of that name
        hashes = {}
        for number, piece in enumerate(_pieces(tensors)):
            data, file = to_bytes(piece), f"{number:05d}.safetensors"
            hashes[file] = hashlib.sha256(data).hexdigest()
            write_bytes(partial / file, data)
        write_json(partial / "checkpoint.json", sealed({"state": state, "sha256": hashes}))
    for old in _names(folder)[KEPT:]:
        shutil.rmtree(folder / old)


class Writer:
    """Writes one checkpoint at a time, where memory allows in a thread from a copy, so that the training continues."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._noted = False

    def save(self, folder: Path, name: str, tensors: Iterable[tuple[str, torch.Tensor]], state: dict[str, Any]) -> int:
        """Begin to write a checkpoint, see `save`, after the previous one is whole; return the bytes of its tensors."""
        self.wait()
        named = list(tensors)
        size = sum(tensor.nbytes for _, tensor in named)
        if free_memory() >= COPY_ROOM * size:
            copies = [(key, tensor.detach().to("cpu", copy=True)) for key, tensor in named]
            self._writing = self._thread.submit(save, folder, name, copies, state)
        else:
            if not self._noted:
                needed = f"a copy of {size / 2**30:.1f} GiB needs {COPY_ROOM} times as much free memory"
                print(f"handtrain: training waits while checkpoints are written: {needed}", file=sys.stderr)
            self._noted = True
            save(folder, name, named, state)
        return size

    def check(self) -> None:
        """Raise the error of a checkpoint whose writing has failed."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint is whole. Raises the error of its writing."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for the thread; an error of a checkpoint for which nobody has waited is lost with the run's own."""
        self._thread.shutdown()


def newest(folder: Path, run: str | None = None) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest intact checkpoint, and the names of newer ones that are damaged or of another run.

    `run` is the key of the run's configuration, which states contain. Older versions did not store it.
    """
    damaged: list[str] = []
    for name in _names(folder):
        checkpoint = read(folder / name)
        if checkpoint and checkpoint.state.get("run", run) == run:
            return checkpoint, damaged
        damaged.append(name)
    return None, damaged


def read(path: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder, None if one of its files is missing or damaged."""
    record = read_json(path / "checkpoint.json")
    if record is None or not intact(record) or record.keys() - {SEAL} != {"state", "sha256"}:
        return None
    state, hashes = record["state"], record["sha256"]
    if not isinstance(state, dict) or not isinstance(hashes, dict) or type(state.get("log_lines", 0)) is not int:
        return None
    try:
        whole = all(Path(file).name == file and sha256_of(path / file) == sha256 for file, sha256 in hashes.items())
    except OSError:
        return None
    return Checkpoint(path, state, tuple(hashes)) if whole else None


def set_aside(path: Path) -> None:
    """Rename a damaged file or folder, so that it is not read again; an earlier one of that name is removed."""
    aside = path.with_name(f".{path.name}.damaged")
    if aside.is_dir():
        shutil.rmtree(aside)
    path.replace(aside)


def training_state(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    average: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a model's trained parameters as `model/NAME`, and its optimizer's tensors as `optimiser/KEY/NAME`.

    The running mean of its weights, if there is one, is `average/NAME`.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in trained.items():
        yield f"model/{name}", parameter.detach()
    if optimiser:
        for name, parameter in trained.items():
            for key, value in optimiser.state[parameter].items():
                yield f"optimiser/{key}/{name}", torch.as_tensor(value)
    for name, mean in (average or {}).items():
        yield f"average/{name}", mean


def restore(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    average: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Copy a checkpoint's tensors into the model, optimizer and average that `training_state` read."""
    weights, parameters = model.state_dict(), dict(model.named_parameters())
    for name, tensor in checkpoint.tensors():
        kind, _, rest = name.partition("/")
        if kind == "model":
            weights[rest].copy_(tensor)
        elif kind == "average":
            assert average is not None, f"{checkpoint.folder} contains an average of weights"
            average[rest].copy_(tensor)
        else:
            assert optimiser is not None, f"{checkpoint.folder} contains an optimizer's state"
            key, _, parameter_name = rest.partition("/")
            parameter = parameters[parameter_name]
            optimiser.state[parameter][key] = _state(key, tensor, parameter, optimiser)


def _state(key: str, tensor: torch.Tensor, parameter: torch.Tensor, optimiser: torch.optim.Optimizer) -> Any:
    if key == "step":
        if not tensor.is_floating_point():
            return int(tensor)  # of the 8-bit optimizer
        return tensor.to(parameter.device) if optimiser.defaults.get("fused") else tensor  # Adam's is on the CPU
    if tensor.shape == parameter.shape:  # in the layout of the weights, as the optimizer creates it
        return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
    return tensor.to(parameter.device)


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if not path.name.startswith(".")), reverse=True)


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
