"""Observation of a model during training: a loss with fixed noise, sample grids and evaluations with fixed seeds."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from handdata.errors import UserError
from handdata.files import whole_file
from handdata.vision.pixels import to_rgb
from handtrain.compiling import eager
from handtrain.data.dataset import Photographs, load, splits_of
from handtrain.generation.sampling import Sampler, decode_in_float32, sample_grid
from handtrain.method.diffusion import Diffusion
from handtrain.method.micro_batch import parts
from handtrain.method.noise import Draw, image_draws, seed_of
from handtrain.method.prediction import Texts
from handtrain.model.base import Base
from handtrain.presets import OBSERVED_AT_ONCE, RunOptions, TrainOptions
from handtrain.run.session import Session
from handtrain.training.early_stopping import Judge, hand_metrics, is_due
from handtrain.training.pose_stage import trained_module
from handtrain.training.training_set import EncodedSplit


@dataclass
class Observer:
    """Observes the model at the steps that the options name; without a validation split it does nothing."""

    session: Session
    base: Base
    options: TrainOptions
    running: RunOptions
    unconditional: Texts  # '' as a single text
    split: EncodedSplit | None
    judge: Judge | None = None

    @property
    def state(self) -> dict[str, Any]:
        """The part of a checkpoint's state that later evaluations depend on."""
        return self.judge.state if self.judge else {}

    def due(self, step: int, total: int) -> bool:
        """Return whether anything is observed after this step of Stage III."""
        every = (self.running.validate_every, self.running.sample_every, self.options.evaluate_every)
        return self.split is not None and any(is_due(steps, step, total) for steps in every)

    def observe(self, model: Diffusion, step: int, total: int) -> "Observer":
        """Log a validation loss, write a sample grid and evaluate, if they are due after this step of Stage III.

        The loss is the mean noise-prediction loss over images that are not trained on, with fixed draws: two values
        differ only by the weights. The embeddings are mixed, not optimized, as in generation. Return self.
        """
        if self.split is None:
            return self
        with eager(model.compiled):  # other sizes of batches are not worth compiling
            self._observe(model, self.split, step, total)
        return self

    def _observe(self, model: Diffusion, split: EncodedSplit, step: int, total: int) -> None:
        validating = is_due(self.running.validate_every, step, total)
        judge = self.judge if self.judge and self.judge.due(step, total) else None
        loss = float("nan")
        if validating or judge:
            draw = validation_draw(self.options.seed, split, model.timesteps)
            with torch.no_grad(), self.session.phases.inside("validation"):
                losses = [
                    model.losses(split.latents[part], draw[part], split.mixed[part].to(model.device))
                    for part in parts(len(split), OBSERVED_AT_ONCE)
                ]
                loss = float(torch.cat(losses).double().mean())
        if validating:
            self.session.run.log(stage=3, step=step, validation_loss=loss)
        if is_due(self.running.sample_every, step, total):
            with self.session.phases.inside("samples"):
                self._write_grid(self._sampler(model), split, step)
        if judge:
            with self.session.phases.inside("evaluation"):
                pixels = self._evaluation_images(self._sampler(model), split)
                gesture = self.session.run.record["config"]["gesture"]
                judge.score(
                    step, {"validation_loss": loss, **hand_metrics(pixels, gesture, judge)}, trained_module(model)
                )

    def ended(self, step: int, total: int) -> bool:
        """Return whether Stage III stops early after this step; all processes return the first one's decision."""
        if not self.options.patience or not is_due(self.options.evaluate_every, step, total):
            return False
        return self.session.processes.on_first(lambda: self.judge is not None and self.judge.ended)

    def _sampler(self, model: Diffusion) -> Sampler:
        vae, steps = self.base.vae().to(model.device), self.running.sample_steps
        if vae.device.type == "cuda":
            vae.enable_slicing()  # decodes one image at a time, which takes the least memory
        if model.aside and (half := model.half):  # of the two the copy is on the device
            decode_in_float32(vae)
            return Sampler(self.base, half.network, vae, self.unconditional, steps, model.pose, half.converting)
        return Sampler(self.base, model.unet, vae, self.unconditional, steps, model.pose)

    def _evaluation_images(self, sampler: Sampler, split: EncodedSplit) -> list[np.ndarray]:
        """Return the images (h, w, 3) of an evaluation; they depend on the weights alone."""
        images = []
        for part in parts(self.options.evaluation_images, OBSERVED_AT_ONCE):
            numbers = range(part.start, part.stop)
            seeds = [seed_of("judge", self.options.seed, number) for number in numbers]
            rows = [number % len(split) for number in numbers]
            images += sampler(split.prompts(rows), seeds, split.latents[rows].poses)
        return [np.asarray(to_rgb(image)) for image in images]

    def _write_grid(self, sampler: Sampler, split: EncodedSplit, step: int) -> None:
        rows = slice(0, self.running.sample_prompts)
        seeds, poses = range(self.running.sample_seeds), split.latents[rows].poses
        picture = sample_grid(sampler, split.prompts(rows), split.texts[rows], seeds, poses)
        with whole_file(self.session.run.path / "samples" / f"{step:08d}.png") as partial:
            picture.save(partial, format="PNG")


def validation_draw(seed: int, split: EncodedSplit, timesteps: int) -> Draw:
    """Return the fixed draws of a validation loss: noise per image from the seed, times evenly over the schedule."""
    count = len(split)
    draw = image_draws(seed, "validation", [(name, 0) for name in split.image_ids], split.latents.shape, timesteps)
    times = [int((index + 0.5) / count * timesteps) for index in range(count)]
    return Draw(draw.posterior, draw.noise, torch.tensor(times))


def validation_split(
    photographs: Sequence[Photographs], gestures: Sequence[str], options: TrainOptions, running: RunOptions
) -> list[Photographs]:
    """Return the observed part of each gesture's validation split, empty without need or without such a split.

    Raises `UserError` if evaluations need a validation split that the dataset lacks.
    """
    if not (running.validate_every or running.sample_every or options.evaluate_every):
        return []
    place = photographs[0].place
    if any("validation" not in splits_of(place, gesture) for gesture in gestures):
        if options.evaluate_every:
            raise UserError("--evaluate-every needs a validation split, which this dataset does not have: give 0")
        print("handtrain: the dataset has no validation split: no validation loss, no samples", file=sys.stderr)
        return []
    count = max(running.validation_images, running.sample_prompts)
    each = max(1, count // len(gestures))
    observed = [load(photographs[0].place, gesture, "validation", each) for gesture in gestures]
    for part in observed:
        part.check_images()
    return observed
