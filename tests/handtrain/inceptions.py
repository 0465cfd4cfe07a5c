"""Inception networks of the real classes with random weights: the tests run without network."""

from pathlib import Path
from unittest import mock

import torch


def write_inception_fid(file: Path) -> Path:
    """Write weights for torch-fidelity's Inception."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with mock.patch("torch.load"), mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = FeatureExtractorInceptionV3("random", ["2048"], "no file")
    torch.save(_randomised(network), file)
    return file


def write_inception_torchvision(file: Path) -> Path:
    """Write weights for torchvision's Inception v3."""
    from torchvision.models import inception_v3

    torch.save(_randomised(inception_v3(weights=None, init_weights=False)), file)
    return file


def _randomised(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return weights that keep the scale of the signal through the layers, so that features differ between images."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            scale = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * scale
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
