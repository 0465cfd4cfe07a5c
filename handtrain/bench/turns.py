"""One contender's turns, measured in a process of its own and printed as JSON lines as they end."""

import gc
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import torch

from handtrain.bench.contenders import Contender, Step, make_scene
from handtrain.bench.released_loop import UNET_STEPS
from handtrain.run.device import restart_peak, top_mib

CHUNK = 20  # steps of a turn: two images of the plain loop's Stage II, one of its Stage III
STAGES = (2, 3)


@dataclass(frozen=True)
class Job:
    """A measurement as a process receives it."""

    contender: Contender
    model: str
    device: str
    threads: int
    rounds: int  # turns of each stage
    warmup: int  # steps before each stage's turns; the first one is timed by itself


@dataclass(frozen=True)
class Turn:
    """One turn at one stage, or its first step, in which all is compiled, tuned and allocated."""

    stage: int
    images: int
    seconds: float
    peak_mib: float
    first: bool = False


def measure(job: Job) -> Iterator[Turn]:
    """Yield the first step and the turns of both stages."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    contender = job.contender.ready(make_scene(job.model, device))
    for stage in STAGES:
        step = contender.start(stage)
        # in Stage II the number of an image's first step: our presets make all steps of a batch in that one
        before = [number * UNET_STEPS if stage == 2 else number for number in range(-max(job.warmup, 1), 0)]
        yield replace(_turn(step, stage, before[:1], device), first=True)
        for number in before[1:]:
            step(number)
        for _ in range(job.rounds):
            yield _turn(step, stage, range(CHUNK), device)


def _turn(step: Step, stage: int, numbers: Iterable[int], device: torch.device) -> Turn:
    gc.collect()
    restart_peak(device)
    start = time.perf_counter()
    images = sum(step(number) for number in numbers)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Turn(stage, images, time.perf_counter() - start, top_mib(device))


def main(argument: str) -> None:
    """Measure the job in a JSON object and print a line per turn."""
    record = json.loads(argument)
    for turn in measure(Job(**{**record, "contender": Contender(**record["contender"])})):
        print(json.dumps(asdict(turn)), flush=True)
