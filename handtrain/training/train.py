"""Train a model from a dataset and a base: the stages in their order, read from top to bottom in `train`.

A run may be killed at any moment: the same call resumes it and ends with the same weights.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from handdata import assets
from handdata.errors import Unfinished
from handdata.huggingface import Place
from handtrain.method.gesture import gesture_feature
from handtrain.method.micro_batch import is_out_of_memory
from handtrain.method.unet import add_adapters, merge_adapters, require_grad
from handtrain.model.base import Base
from handtrain.model.export import export
from handtrain.model.formats.adapters import ADAPTERS_FILE, write_adapters
from handtrain.presets import RunOptions, TrainOptions
from handtrain.run.cost import Cost, ideal_seconds, require_room, stage3_order, training_flop
from handtrain.run.device import diffusion
from handtrain.run.fit import table
from handtrain.run.folder import Run
from handtrain.run.footprint import footprint
from handtrain.run.memory import Memory
from handtrain.run.phases import Phases
from handtrain.run.processes import joined, launched
from handtrain.run.session import open_session
from handtrain.tensor_cache import TensorCache
from handtrain.training.early_stopping import open_judge
from handtrain.training.fusion_stage import fusion_layer, fusion_phase, load_layer, save_layer
from handtrain.training.loop import Course, Phase, tune
from handtrain.training.pose_stage import trained_module, with_pose_layers
from handtrain.training.prior import gesture_free, prior_split, with_prior
from handtrain.training.released_order import released_order
from handtrain.training.setup import set_up, stage1_record
from handtrain.training.stage2 import stage2
from handtrain.training.training_set import encode_splits, in_turns, merged, recomputed_landmarks
from handtrain.training.validation import Observer, validation_split


def train(
    dataset: Place | str,
    *,
    gesture: str | Sequence[str],
    base: Place | str,
    out: Path | str,
    preset: str = "paper",
    options: TrainOptions | None = None,
    running: RunOptions | None = None,
    device: str = "auto",
    cache: Path | str | None = None,
    progress: bool = True,
    verify: bool = False,
    prediction_type: str | None = None,
    phases: Phases | None = None,
    fit: str | None = None,
    given: Collection[str] = (),
    **changes: Any,
) -> Run:
    """Fine-tune a Stable Diffusion on gestures of a dataset in the paper's three stages, and return the run.

    `gesture` is a name, several names, or `all`, `dataset` a folder of `handdata publish` or hf:USER/NAME[@REVISION],
    `base` a folder, a .safetensors file (with its `prediction_type` if it does not state that), a name on the Hub or of
    a shipped model, `cache` the folder of encoded images and texts. `options` (default: the preset's) and `running` are
    changed by keywords such as `lam=0.5`; `fit` (auto, or a size such as 24GiB) chooses those with which it fits into
    a card, but none that is changed or in `given`. A finished run is left alone, a damaged model made again; `verify`
    reads its other files. Raises `UserError` for mistakes, `Unfinished` for memory, disk, signals, losses not finite.
    """
    # Setup: the checked arguments, the other processes, and the run folder with the checkpoint to resume from
    out, phases = Path(out), phases or Phases()
    setup = set_up(dataset, gesture, base, preset, options, running, device, changes, out, prediction_type, fit, given)
    options, running, photographs = setup.options, setup.running, setup.photographs
    with _memory_errors(), joined(setup.device) as processes:
        progress = progress and processes.first
        if progress:
            print(f"handtrain: training on {_place(setup.device, processes.count, running)}", file=sys.stderr)
        processes.on_first(lambda: require_room(setup.plan, out))
        with open_session(
            out, setup.config(phases), setup.session(processes.count), processes, setup.device, running,
            ideal_seconds(setup.base, setup.device, processes.count), progress, phases, verify,
        ) as session:  # fmt: skip
            if session.run.finished:
                if progress:
                    print("handtrain: this run is finished", file=sys.stderr)
                return Run(out)
            observed = validation_split(photographs, setup.gestures, options, running) if processes.first else []

            # Stage I: the gesture feature g, one per gesture
            phases.begin("Stage I")
            if options.landmarks == "recompute":
                photographs = [replace(each, rows=recomputed_landmarks(each, progress)) for each in photographs]
            features = [gesture_feature(each.rows, options.feature) for each in photographs]
            g = torch.tensor(features[0].values, dtype=torch.float32)  # (63,); with several gestures it is not used
            session.run.write_json("stage1.json", stage1_record(setup.gestures, features))
            if session.run.lines == 0:  # the log of a resumed run begins with this line
                images, without = (sum(getattr(f, name) for f in features) for name in ("images", "without_hand"))
                session.run.log(stage=1, step=0, images=images, without_hand=without)

            # Encoding: images by the VAE, texts by the text encoder and the flat fusion layer
            encoded = TensorCache(Path(cache) if cache else assets.cache_folder() / "encoded")
            every, target = [*photographs, *observed], setup.device
            splits, unconditional = processes.first_then_rest(
                lambda: encode_splits(every, setup.base, options, g, target, encoded, progress, phases)
            )
            trained, watched = splits[: len(photographs)], splits[len(photographs) :]
            splits = [merged(part) for part in (trained, watched) if part]
            texts = [text for each in photographs for text in gesture_free(each.rows)]
            prior = processes.first_then_rest(
                lambda: prior_split(setup.base, texts, unconditional, options, target, encoded, progress)
            )

            # Model: the denoiser, frozen until Stage III, with adapters if they alone are trained; its samples' judge
            unet = _loaded_denoiser(setup.base, options, phases)
            schedule, scaling, form = setup.base.training_schedule(), setup.base.scaling(), setup.base.backbone.FORM
            model = diffusion(unet, schedule, scaling, options, running, setup.device, form)
            judge = None
            if options.evaluate_every and processes.first:
                judge = open_judge(session, options, photographs[0], setup.base.resolution, encoded)

            # Token fusion, before Stage II: one trained layer in place of the flat one
            layer = None
            if options.fusion == "token" and options.lam < 1:
                layer, fuse = fusion_layer(setup.base.sizes.width, g, options.lam, model.device)
                if not load_layer(session, layer):
                    tune(session, model, layer, splits[0], splits[0].text, fusion_phase(options), fuse)
                    save_layer(session, layer)
                splits = [each.fused(layer.requires_grad_(False), g, options.lam, model.device) for each in splits]

            split, observed_split = splits[0], in_turns(splits[1]) if len(splits) > 1 else None
            observer = Observer(session, setup.base, options, running, unconditional, observed_split, judge)
            if options.order == "images":
                # Stages II and III of one image after the other, as in the released code
                released_order(session, model, split, options, observer)
            else:
                # Stage II: the embedding of every image, optimized through the frozen UNet
                embeddings = stage2(session, model, split, options)

                # Stage III: the UNet on the frozen embeddings, with the pose layers and the base's own pictures
                require_grad(unet)
                model, module = with_pose_layers(model, options)
                split, embeddings = with_prior(split, embeddings, prior)
                course = Course(options, stage3_order(options, setup.counts, len(prior or ())), unconditional)
                phase = Phase(
                    "unet", stage=3, epochs=options.unet_epochs, batch=options.unet_batch, lr=options.unet_lr,
                    seed=options.seed, warmup=options.unet_warmup, optimizer=options.optimizer, course=course,
                )  # fmt: skip
                tune(session, model, module, split, embeddings, phase, observer=observer)

            # Export: the last or the best weights as a model folder
            phases.begin("export")
            if processes.first:
                kept = judge.restore(trained_module(model)) if judge and options.keep == "best" else None
                poses = [each.latents.poses for each in trained]
                about = setup.about(session.run.record["config"], features, layer, kept, poses)
                if options.lora_rank:
                    about |= write_adapters(out / ADAPTERS_FILE, unet, about, setup.base)
                    merge_adapters(unet)
                export(out / "model", setup.base, unet, about, layer, running.safety_checker, model.pose)
                session.finish()
    return Run(out)


def plan_run(
    dataset: Place | str,
    *,
    gesture: str | Sequence[str],
    base: Place | str,
    preset: str = "paper",
    options: TrainOptions | None = None,
    running: RunOptions | None = None,
    device: str = "auto",
    prediction_type: str | None = None,
    fit: str | None = None,
    given: Collection[str] = (),
    **changes: Any,
) -> str:
    """Check the arguments of `train` and return a text with the steps, memory, disk space and time of the run.

    A table lists the changes with which every preset fits on cards of three sizes.
    """
    setup = set_up(dataset, gesture, base, preset, options, running, device, changes, None, prediction_type, fit, given)
    count, memory = launched().count, Memory(setup.base)
    size = footprint(memory, setup.options, setup.running, count)
    cost = Cost(training_flop(setup.plan, setup.base), setup.device, count)
    return f"{setup.plan}\n{size}\n{cost}\n\n{table(memory)}"


def _loaded_denoiser(base: Base, options: TrainOptions, phases: Phases) -> Any:
    phases.begin("load")
    unet = base.denoiser()
    phases.add("load", read=sum(parameter.nbytes for parameter in unet.parameters()))  # a file mapped into memory
    if options.lora_rank:
        add_adapters(unet, options.lora_rank, options.seed)
    return unet


def _place(device: torch.device, processes: int, running: RunOptions) -> str:
    together = f" in {processes} processes" if processes > 1 else ""
    replayed = ", steps replayed as CUDA graphs" if running.graphs == "on" else ""
    return f"{device} with {torch.get_num_threads()} CPU threads{together}{replayed}"


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Convert out-of-memory errors to an `Unfinished` that names the remedy."""
    remedy = "resume the run with --micro-batch 1 and --gradient-checkpointing, which change nothing but rounding"
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise Unfinished(f"out of memory: {remedy}") from None
