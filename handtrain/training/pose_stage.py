"""The pose layers of Stage III: made, attached to the UNet, and trained together with it."""

from dataclasses import replace

import torch

from handtrain.method.conditioning import attach, make_pose_layers
from handtrain.method.diffusion import Diffusion
from handtrain.presets import TrainOptions, routes


def with_pose_layers(model: Diffusion, options: TrainOptions) -> tuple[Diffusion, torch.nn.Module]:
    """Return the model with new pose layers, and the module to train; without --pose both as they are."""
    if not routes(options):
        return model, model.unet
    layers = make_pose_layers(model.unet, routes(options), options.seed).to(model.device)
    for network in (model.unet, model.half.network) if model.half else (model.unet,):
        attach(network, layers)
    model = replace(model, pose=layers)
    return model, trained_module(model)


def trained_module(model: Diffusion) -> torch.nn.Module:
    """Return the UNet, with the pose layers if there are any."""
    return torch.nn.ModuleDict({"unet": model.unet, "pose": model.pose}) if model.pose is not None else model.unet
