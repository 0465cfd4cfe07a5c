"""The training of the token fusion layer, before Stage II, and its file in the run folder."""

from collections.abc import Sequence

import torch

from handtrain import tensor_cache
from handtrain.method.diffusion import Diffusion
from handtrain.method.fusion import TokenFusion, mix
from handtrain.method.gesture import NUMBERS
from handtrain.presets import TrainOptions
from handtrain.run.session import Session
from handtrain.training.loop import Phase, tune
from handtrain.training.training_set import EncodedSplit

_FILE = "stage2/fusion.safetensors"  # of the run folder: the trained token layer


def token_fusion(
    session: Session, model: Diffusion, splits: Sequence[EncodedSplit], g: torch.Tensor, width: int,
    options: TrainOptions,
) -> tuple[TokenFusion, list[EncodedSplit]]:  # fmt: skip
    """Return the layer, trained on the first split unless the run has it already, and the splits fused by it."""
    layer = TokenFusion(width, NUMBERS).to(model.device)
    if not _load(session, layer):
        on_device = g.to(model.device)
        phase = Phase(
            "fusion", stage=2, epochs=options.fusion_epochs, batch=options.fusion_batch,
            lr=options.fusion_lr, seed=options.seed,
        )  # fmt: skip
        fuse = lambda text: mix(text, layer(text, on_device), options.lam)  # noqa: E731
        tune(session, model, layer, splits[0], splits[0].text, phase, fuse)
        _save(session, layer)
    layer.requires_grad_(False)
    return layer, [split.fused(layer, g, options.lam, model.device) for split in splits]


def _load(session: Session, layer: TokenFusion) -> bool:
    """Load the fusion layer in all processes if the run has trained it already; return whether it has."""
    names, file = layer.state_dict().keys(), session.run.path / _FILE

    def read() -> tensor_cache.Tensors | None:
        tensors, about = tensor_cache.read(file) or ({}, {})
        return tensors if tensors.keys() == names and session.run.owns(about) else None

    stored = session.processes.on_first(read)
    if stored:
        layer.load_state_dict(stored)
    return stored is not None


def _save(session: Session, layer: TokenFusion) -> None:
    if session.processes.first:
        weights = {name: tensor.cpu() for name, tensor in layer.state_dict().items()}
        tensor_cache.write(session.run.path / _FILE, weights, {"log_lines": session.run.lines, "run": session.run.key})
