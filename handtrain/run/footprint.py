"""The memory of a run on its device, by part and by phase, computed before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from handtrain.presets import OBSERVED_AT_ONCE, PRIOR_AT_ONCE, RunOptions, TrainOptions, routes
from handtrain.run.device import left_aside
from handtrain.run.memory import Memory, Use

# Intermediate results of cuDNN and cuBLAS: peaks measured on an H100 and an H200 exceed the count of tensors
# by 0.1 to 0.65 GiB (tests/handtrain/run/test_memory.py).
WORKSPACE = 2**29  # bytes
# CUDA's context and kernels, and gaps between torch's blocks: an allowance that was not measured
CONTEXT = 3 * 2**28  # bytes
SMALLEST_8_BIT = 4096  # elements: moments of smaller tensors stay in float32


@dataclass(frozen=True)
class Footprint:
    """The bytes on the device. Parts of one run are not all there at once: `peaks` has what is there in each phase."""

    weights: int  # of the trained network in float32, with adapters and pose layers
    aside: int  # of the network in float32, in the computer's memory in place of the device's
    gradients: int
    moments: int  # of Adam
    copy: int  # of the network in bfloat16
    copy_gradients: int
    mean: int  # of the weights
    frozen: dict[str, int]  # other networks that are on the device, by phase
    activations: dict[str, int]  # in the forward passes of Stages II and III, without a workspace
    images: dict[str, int]  # at once in these stages, in each process
    peaks: dict[str, int]  # by phase, with a workspace

    @property
    def peak(self) -> int:
        """The most bytes of all phases."""
        return max(self.peaks.values())

    @property
    def fixed(self) -> int:
        """The bytes that neither smaller parts of a batch nor gradient checkpointing reduce."""
        step = self.weights + self.gradients + self.moments + self.copy + self.copy_gradients + self.mean + WORKSPACE
        return max(step, *(size for phase, size in self.peaks.items() if phase not in self.images))

    def __str__(self) -> str:
        largest = max(self.peaks, key=lambda phase: self.peaks[phase])
        parts = {
            "weights": self.weights, "gradients": self.gradients, "Adam's moments": self.moments,
            "copy in bf16": self.copy, "its gradients": self.copy_gradients, "mean of weights": self.mean,
        }  # fmt: skip
        lines = [f"memory:    {gib(self.peak)} at most, in {largest}"]
        lines += [_line(name, size) for name, size in parts.items() if size]
        if self.aside:
            lines += [f"           (the frozen weights in float32, {gib(self.aside)}, stay in the computer's memory)"]
        each = "; ".join(f"{gib(size)} in {phase}" for phase, size in self.frozen.items())
        lines += [_line("frozen networks", max(self.frozen.values()), each)]
        for stage, size in self.activations.items():
            at_once = f"{self.images[stage]} image{'s' if self.images[stage] > 1 else ''} at once"
            lines += [_line("activations", size, f"{stage}, {at_once}")]
        lines += [_line("workspace", WORKSPACE, f"allowance; the card needs {gib(CONTEXT)} more for CUDA")]
        phases = ", ".join(f"{phase} {gib(size)}" for phase, size in self.peaks.items())
        lines += [
            f"           by phase: {phases}",
            "           (a backward pass frees activations while it makes gradients)",
        ]
        return "\n".join(lines)


def footprint(memory: Memory, options: TrainOptions, running: RunOptions, processes: int = 1) -> Footprint:
    """Count the memory of a run in each process. `--micro-batch auto` is counted with the whole batch.

    `options.precision` and `running.graphs` must be resolved for the device.
    """
    sizes = memory.weights(options.lora_rank, routes(options))
    tensors = (*sizes.trained, *sizes.layers)
    trained, half = 4 * sum(tensors), options.precision == "bf16"
    weights, aside = 4 * sizes.frozen + trained, 0
    if left_aside(options):
        weights, aside = trained, 4 * sizes.frozen
    copy, copy_gradients = (2 * size if half else 0 for size in (sizes.frozen + sum(sizes.trained), sum(sizes.trained)))
    moments, mean = moment_bytes(tensors, options.optimizer), trained if options.ema else 0
    images = _at_once(options, running, processes)
    frozen, peaks = _before_training(memory, options)
    activations = {}
    for stage, use in _uses(options, running).items():
        if count := images[stage]:
            activations[stage] = memory.activations(use, count)
            peaks[stage] = weights + copy + memory.peak(use, count)
    if options.order == "images" and "Stage II" in peaks:  # those of the image before are still there
        peaks["Stage II"] += trained + moments
    peaks["Stage III"] += moments + mean
    if images["Stage III"] < -(-options.unet_batch // processes):
        later = replace(_uses(options, running)["Stage III"], later=True)
        further = weights + copy + moments + mean + memory.peak(later, images["Stage III"])
        peaks["Stage III"] = max(peaks["Stage III"], further)
    if drawn := _drawn_at_once(options, running):
        frozen["samples"] = memory.frozen("vae")
        predict = Use("predict", "bf16", rank=options.lora_rank) if aside else Use("predict")
        drawing = max(memory.peak(predict, 2 * drawn), memory.peak(Use("decode"), 1))
        standing = weights + trained + copy + moments + mean
        if running.graphs == "on":  # a captured step keeps its memory
            standing = peaks["Stage III"]
        peaks["samples"] = standing + frozen["samples"] + drawing
    peaks = {phase: size + WORKSPACE for phase, size in peaks.items()}
    return Footprint(weights, aside, trained, moments, copy, copy_gradients, mean, frozen, activations, images, peaks)


def images_together(side: int) -> int:
    """Return the number of images of a side in pixels that a GPU encodes at once: 8 of up to 512, 2 of 1,024."""
    return max(1, 8 * 512**2 // max(side, 512) ** 2)


def moment_bytes(tensors: Sequence[int], optimizer: str) -> int:
    """Return the bytes of Adam's two moments for trained tensors of these sizes.

    In 8 bits (bitsandbytes 0.50): a byte and, for 256 elements, a scale in float32; tensors below 4,096 elements stay
    in float32.
    """
    if optimizer == "adam":
        return 8 * sum(tensors)
    return sum(2 * (size + 4 * -(-size // 256)) if size >= SMALLEST_8_BIT else 8 * size for size in tensors)


def gib(size: float) -> str:
    """Return a number of bytes in GiB."""
    return f"{size / 2**30:.2f} GiB"


def _at_once(options: TrainOptions, running: RunOptions, processes: int) -> dict[str, int]:
    """Return the images in one pass of each stage; 0 for a stage that is left out."""
    fused = -(-options.fusion_batch // processes) if options.fusion == "token" and options.lam < 1 else 0
    batches = {
        "Stage II": max(fused, options.embedding_batch if options.embedding_steps else 0),
        "Stage III": -(-options.unet_batch // processes),
    }
    most = 0 if running.micro_batch == "auto" else running.micro_batch
    return {stage: min(batch, most) if most else batch for stage, batch in batches.items()}


def _uses(options: TrainOptions, running: RunOptions) -> dict[str, Use]:
    stage2 = Use("stage2", options.precision, running.gradient_checkpointing, options.lora_rank)
    return {"Stage II": stage2, "Stage III": replace(stage2, of="stage3", routes=routes(options))}


def _before_training(memory: Memory, options: TrainOptions) -> tuple[dict[str, int], dict[str, int]]:
    """Return the frozen networks on the device and the peaks of encoding and of drawing the base's own pictures."""
    backbone = memory.base.backbone
    vae, encoders = memory.frozen("vae"), memory.frozen(*backbone.TOKENIZERS)
    together = images_together(memory.base.resolution)
    images, texts = vae + memory.peak(Use("encode"), together), encoders + memory.peak(Use("texts"), 1)
    frozen, peaks = {"encoding": vae if images > texts else encoders}, {"encoding": max(images, texts)}
    if options.prior:
        frozen["prior"] = vae + memory.frozen(backbone.TRAINED)
        peaks["prior"] = frozen["prior"] + memory.peak(Use("predict"), 2 * PRIOR_AT_ONCE)
    return frozen, peaks


def _drawn_at_once(options: TrainOptions, running: RunOptions) -> int:
    """Return the largest number of pictures that are drawn at once during Stage III, each with and without its text."""
    counts = {
        running.sample_seeds: running.sample_every,
        OBSERVED_AT_ONCE // 2: running.validate_every,  # a loss without gradients, of these images once
        OBSERVED_AT_ONCE: options.evaluate_every,
    }
    return max((count for count, every in counts.items() if every), default=0)


def _line(name: str, size: int, note: str = "") -> str:
    return f"           {name:<20}{gib(size):>10}{f'  ({note})' if note else ''}"
