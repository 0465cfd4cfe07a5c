"""One Stage II and one Stage III step of the full-size Stable Diffusion 1.4 UNet on a CPU, and the memory they take.

    python benchmarks/full_size_steps.py [--no-checkpointing]

The weights are random: time and memory do not depend on them. Prints one JSON object.
"""

import argparse
import json
import resource
import time
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.embedding import optimise_embeddings
from handtrain.method.noise import image_draws
from handtrain.method.unet import adam, tuning_step

# CompVis/stable-diffusion-v1-4, unet/config.json: the values that may differ from the class's defaults.
SD14 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD14_PARAMETERS = 859_520_964


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    flags = arguments.parse_args()
    network: Any = UNet2DConditionModel  # diffusers has no types
    unet = network(**SD14).train()
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    assert parameters == SD14_PARAMETERS, parameters
    if not flags.no_checkpointing:
        unet.enable_gradient_checkpointing()
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    model = Diffusion(unet, DDPMScheduler(**betas), 0.18215, torch.device("cpu"))  # type: ignore[no-untyped-call]
    latents = Latents(torch.randn(1, 4, 64, 64), torch.ones(1, 4, 64, 64))
    draw = image_draws(0, "benchmark", [("image", 0)], (4, 64, 64), 1000)
    figures = {"parameters": parameters, "threads": torch.get_num_threads(), "loaded_gib": _peak_gib()}

    unet.requires_grad_(False)
    start = time.perf_counter(), time.process_time()
    before = torch.randn(1, 77, 768)
    embedding, _ = optimise_embeddings(model, latents, before, [draw], 1e-3)
    assert not torch.equal(embedding, before)
    figures["stage2"] = {**_since(*start), "peak_gib": _peak_gib()}

    unet.requires_grad_(True)
    weight = unet.conv_in.weight.detach().clone()
    start = time.perf_counter(), time.process_time()
    losses = tuning_step(model, adam(unet.parameters(), 1e-6), latents, draw, embedding)
    assert torch.isfinite(losses).all()
    assert not torch.equal(unet.conv_in.weight, weight)
    figures["stage3"] = {**_since(*start), "peak_gib": _peak_gib()}
    print(json.dumps(figures, indent=1))


def _since(wall: float, cpu: float) -> dict[str, float]:
    return {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}


def _peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
