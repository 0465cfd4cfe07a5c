"""The training of the token fusion layer, before Stage II, and its file in the run folder."""

from collections.abc import Callable

import torch

from handtrain import tensor_cache
from handtrain.method.fusion import TokenFusion, mix
from handtrain.method.gesture import NUMBERS
from handtrain.presets import TrainOptions
from handtrain.run.session import Session
from handtrain.training.loop import Phase

_FILE = "stage2/fusion.safetensors"  # of the run folder: the trained token layer


def fusion_phase(options: TrainOptions) -> Phase:
    """Return the settings of the layer's training."""
    return Phase(
        "fusion", stage=2, epochs=options.fusion_epochs, batch=options.fusion_batch, lr=options.fusion_lr,
        seed=options.seed,
    )  # fmt: skip


def fusion_layer(
    width: int, g: torch.Tensor, lam: float, device: torch.device
) -> tuple[TokenFusion, Callable[[torch.Tensor], torch.Tensor]]:
    """Return a new layer, and the function that mixes the gesture feature into embeddings by it."""
    layer, feature = TokenFusion(width, NUMBERS).to(device), g.to(device)
    return layer, lambda text: mix(text, layer(text, feature), lam)


def load_layer(session: Session, layer: TokenFusion) -> bool:
    """Load the fusion layer in all processes if the run has trained it already; return whether it has."""
    names, file = layer.state_dict().keys(), session.run.path / _FILE

    def read() -> tensor_cache.Tensors | None:
        tensors, about = tensor_cache.read(file) or ({}, {})
        return tensors if tensors.keys() == names and session.run.owns(about) else None

    stored = session.processes.on_first(read)
    if stored:
        layer.load_state_dict(stored)
    return stored is not None


def save_layer(session: Session, layer: TokenFusion) -> None:
    """Write the trained layer into the run folder."""
    if session.processes.first:
        weights = {name: tensor.cpu() for name, tensor in layer.state_dict().items()}
        tensor_cache.write(session.run.path / _FILE, weights, {"log_lines": session.run.lines, "run": session.run.key})
