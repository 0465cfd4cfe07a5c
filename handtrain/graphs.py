"""Steps of training that are replayed: on a GPU the kernels of one step are captured once, and launched together.

A step of Stable Diffusion launches thousands of kernels one by one, and with a single image the GPU waits for them. A
CUDA graph has them all in one launch, with the addresses of the tensors that the captured step read and wrote. So all
that changes from step to step is in tensors that stay where they are: inputs, learning rates, the mean's share.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch

from handtrain.method.diffusion import Diffusion, Latents
from handtrain.method.noise import Draw
from handtrain.method.unet import Average

# Of the latents, the draw, the embeddings (b, tokens, width), all on the device, and the images of all processes: the
# losses (b,). It changes the weights.
Step: TypeAlias = Callable[[Latents, Draw, torch.Tensor, int], torch.Tensor]
Context: TypeAlias = Callable[[], AbstractContextManager[Any]]

WARM_UPS = 3  # steps before a capture, in which kernels are loaded and chosen (torch's notes on CUDA graphs)


class Replayed:
    """A step that is captured at the first call, and replayed by the following ones of the same size."""

    def __init__(
        self, step: Step, size: int, model: Diffusion, optimiser: torch.optim.Optimizer, average: Average
    ) -> None:
        """Take a step of `size` images, the only size that is captured, and what it changes."""
        self._step, self._size, self._model = step, size, model
        self._without_effect = partial(without_effect, optimiser, average)
        self._inputs: tuple[Latents, Draw, torch.Tensor] | None = None
        self._replay: Callable[[], torch.Tensor] | None = None

    def __call__(self, latents: Latents, draw: Draw, embeddings: torch.Tensor, count: int) -> torch.Tensor:
        """Take one step; return its losses (b,)."""
        if count != self._size:  # the last batch
            self._replay = self._inputs = None  # the graph's memory is free again
            return self._step(latents, draw, embeddings, count)
        given = (latents, draw, embeddings)
        if self._inputs is None or self._replay is None:
            inputs = self._inputs = copy.deepcopy(given)
            fixed, device = self._model.micro_batch.fixed, self._model.device
            self._replay = captured(lambda: self._step(*inputs, count), self._without_effect, fixed, device)
        for tensor, value in zip(_tensors(*self._inputs), _tensors(*given), strict=True):
            tensor.copy_(value)
        return self._replay().clone()


def captured(
    compute: Callable[[], torch.Tensor], without_effect: Context, fixed: Context, device: torch.device
) -> Callable[[], torch.Tensor]:
    """Capture a computation as a CUDA graph; return a function that replays it and returns its result.

    It is computed first `without_effect`, and captured in the context `fixed`. The capture itself computes nothing.
    """
    streams: Any = torch.cuda  # its streams have no types
    stream, current = streams.Stream(device), streams.current_stream(device)
    stream.wait_stream(current)
    with streams.stream(stream), without_effect():
        for _ in range(WARM_UPS):
            compute()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Another thread may prepare the next inputs meanwhile, so only this one has to leave out what no graph can contain
    with fixed(), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = compute()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


@contextmanager
def without_effect(optimiser: torch.optim.Optimizer, average: Average) -> Iterator[None]:
    """Let steps change neither weights nor moments nor means; an optimizer without moments gets those of no step.

    Adam's fused kernel skips a step whose gradients are marked as infinite, as torch.amp.GradScaler does; without a
    change of the weights, a mean with the share 0 stays.
    """
    marked: Any = optimiser
    marked.found_inf = torch.ones((), device=optimiser.param_groups[0]["params"][0].device)
    share = float(average.share)
    average.set_share(0.0)
    try:
        yield
    finally:
        del marked.found_inf
        optimiser.zero_grad(set_to_none=True)  # before a capture, which has gradients of its own
        average.set_share(share)


def _tensors(latents: Latents, draw: Draw, embeddings: torch.Tensor) -> list[torch.Tensor]:
    """Return all tensors of a step's inputs."""
    own = (latents.mean, latents.deviation, latents.weights, latents.poses, *latents.more.values())
    every = (*own, draw.posterior, draw.noise, draw.timesteps, embeddings)
    return [tensor for tensor in every if tensor is not None]
