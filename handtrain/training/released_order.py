"""The released code's order: Stage II and Stage III on one image after the other (docs/decisions.md)."""

import time

from handdata.progress import bar
from handtrain.method.diffusion import Diffusion
from handtrain.method.embedding import optimise_embeddings
from handtrain.method.noise import reference_draws
from handtrain.method.unet import adam, tuning_step
from handtrain.presets import TrainOptions
from handtrain.run import checkpoint
from handtrain.run.session import Session
from handtrain.training.training_set import EncodedSplit
from handtrain.training.validation import Observer


def released_order(
    session: Session, model: Diffusion, split: EncodedSplit, options: TrainOptions, observer: Observer
) -> None:
    """Train the UNet on one image of a split after the other, each with a new Adam; resume from a checkpoint.

    Raises `Stopped` after a signal, `Unfinished` if a loss is not finite.
    """
    count, unet, lr = len(split), model.unet, options.embedding_lr
    first = 0
    session.stops.deferred = True  # until the last checkpoint
    if session.resume:
        checkpoint.restore(session.resume, unet)
        first = session.resume.state["images"]
    else:
        observer.observe(model, 0, count)
    steps = options.embedding_steps + options.unet_epochs
    images = range(first, count)
    for index in bar(images, desc="images", unit="image", initial=first, total=count, show=session.progress):
        part = slice(index, index + 1)
        image_id, latents = split.image_ids[part], split.latents[part]
        draws = reference_draws(options.seed, latents.shape, model.timesteps, steps, options.noise_device)
        # Stage II
        session.phases.begin("Stage II")
        unet.requires_grad_(False)
        began, stage2_draws = time.monotonic(), draws[: options.embedding_steps]
        embedding, history = optimise_embeddings(model, latents, split.mixed[part], stage2_draws, lr)
        speed = len(history) / (time.monotonic() - began)
        for step, losses in enumerate(history):
            session.log_step(2, step, image_id, losses, lr, speed=speed)
        # Stage III
        session.phases.begin("Stage III")
        unet.requires_grad_(True)
        embedding, optimiser = embedding.to(model.device), adam(unet.parameters(), options.unet_lr)
        for step, draw in enumerate(draws[options.embedding_steps :]):
            losses = tuning_step(model, optimiser, latents, draw, embedding)
            session.log_step(3, step, image_id, losses, options.unet_lr)
        observer.observe(model, index + 1, count)
        tensors, state = checkpoint.training_state(unet), {"images": index + 1}
        session.save_when_due(f"images-{index + 1:08d}", tensors, state, last=index + 1 == count)
    session.stops.deferred = False  # a run that is resumed after its last image has none
